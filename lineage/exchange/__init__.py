"""Adoption of networks that were trained elsewhere."""
