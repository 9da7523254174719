"""SparseAttnNet in the window: click a cell, classify all."""
