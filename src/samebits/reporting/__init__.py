"""Pictures and tables made from a run's results."""
