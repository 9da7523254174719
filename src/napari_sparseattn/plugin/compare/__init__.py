"""Two models or settings side by side."""
