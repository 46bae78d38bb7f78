"""Local files and files in object storage: where they are, and how long a sound is."""
