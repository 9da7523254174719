"""Many files at once: found, shared out among processes, checked, and named where they fail."""
