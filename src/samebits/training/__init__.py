"""From prepared images to trained weights. Knows nothing of files, DVC or tracking: it takes a callback."""
