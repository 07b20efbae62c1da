"""How one generation is trained."""
