"""What CI checks without training."""
