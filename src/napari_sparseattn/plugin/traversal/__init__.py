"""TNet in the window: crops, their tree, what each contributed."""
