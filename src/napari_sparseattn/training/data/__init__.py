"""Annotations and labelled images as training data."""
