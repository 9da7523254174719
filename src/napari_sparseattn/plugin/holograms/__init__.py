"""Holograms in the window: from fringes to optical path difference."""
