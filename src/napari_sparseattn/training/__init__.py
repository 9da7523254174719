"""From labelled images to a trained model and a report."""
