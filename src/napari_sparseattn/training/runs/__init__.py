"""Training runs that can be paused and resumed, and the versions of a model that they give."""
