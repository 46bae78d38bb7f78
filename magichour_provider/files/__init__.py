"""Files at our end: where they lie, and how long a sound is."""
