"""Schedules of the learning rate. Each is one file here: a function `factor` whose keyword-only arguments are its settings."""
