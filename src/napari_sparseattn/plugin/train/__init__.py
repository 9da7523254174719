"""Fine-tuning in the window."""
