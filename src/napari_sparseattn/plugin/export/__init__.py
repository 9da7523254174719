"""Results and models written from the window."""
