"""The dock's widgets: each is given the session and only shows and sets."""
