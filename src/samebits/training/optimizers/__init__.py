"""Optimizers. Each is one file here: a function `build` whose keyword-only arguments are its settings in params.yaml."""
