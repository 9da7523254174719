"""Predictions as files that other tools open."""
