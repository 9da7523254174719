"""The command line: every verb of ``napari-sparseattn``; no napari, no Qt."""
