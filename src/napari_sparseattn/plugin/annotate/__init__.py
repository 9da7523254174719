"""Annotations in ordinary layers, saved as they are made."""
