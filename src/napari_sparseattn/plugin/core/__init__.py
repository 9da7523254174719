"""What all rooms of the window share: the session, layers, background work."""
