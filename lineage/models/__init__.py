"""Networks by name: our own, torchvision's, exported programs, and ensembles as modules."""
