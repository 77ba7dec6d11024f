"""Two results, or two groups of seeds: whether their difference is more than chance."""
