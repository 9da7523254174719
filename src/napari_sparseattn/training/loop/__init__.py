"""Networks trained: losses, epochs, calibration."""
