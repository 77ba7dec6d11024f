"""From prepared images to trained weights. The loop knows nothing of files, DVC or tracking: it takes callbacks."""
