"""Trained models tuned to a user's annotations, with an honest report."""
