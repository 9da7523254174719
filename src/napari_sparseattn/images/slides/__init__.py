"""Whole-slide images: levels, regions read on demand, patches."""
