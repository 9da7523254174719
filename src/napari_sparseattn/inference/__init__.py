"""Image and bundle in; classes, probabilities and evidence out."""
