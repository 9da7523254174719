"""Many files from the window."""
