"""All classified cells at once: the table, the gallery and the map of them."""
