"""What CI requires of a pull request without training."""
