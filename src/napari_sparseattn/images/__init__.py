"""Pixels in: fields of view, their cells, and crops of them. No torch, napari or Qt."""
