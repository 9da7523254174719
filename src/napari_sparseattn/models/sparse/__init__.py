"""SparseAttnNet: classify a cell from the few pixels that a coarse map selects (torch only)."""
