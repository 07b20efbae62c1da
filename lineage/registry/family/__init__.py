"""Model versions and their graph."""
