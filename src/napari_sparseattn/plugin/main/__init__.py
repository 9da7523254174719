"""The dock Sparse attention, which puts the rooms together."""
