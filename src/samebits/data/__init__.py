"""From raw bytes to normalized tensors on disk."""
