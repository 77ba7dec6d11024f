"""Using a trained network: on images, as a file that other programs run, as a model that a server offers."""
