"""Networks by name: built-in ones, torchvision's, exported programs, and ensembles."""
