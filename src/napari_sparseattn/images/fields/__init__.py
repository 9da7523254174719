"""Fields of view: reading, finding cells, cutting crops."""
