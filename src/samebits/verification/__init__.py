"""Whether a result can be had again, bit for bit."""
