"""From a trained network to its predictions and what they are worth."""
