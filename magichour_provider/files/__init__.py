"""Local files and files in object storage: their places, their media types, and the length of audio."""
