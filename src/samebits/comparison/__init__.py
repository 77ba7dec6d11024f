"""Two results, or two groups of seeds: what their difference is worth."""
