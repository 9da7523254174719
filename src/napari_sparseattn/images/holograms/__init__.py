"""Holograms and phase: from what a camera recorded to optical path difference."""
