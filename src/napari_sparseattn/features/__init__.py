"""Patches of a slide as numbers: encoders, features on disk, features made elsewhere."""
