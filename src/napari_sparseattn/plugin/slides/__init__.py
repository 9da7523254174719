"""SPAN in the window: tissue, patches, attention per level."""
