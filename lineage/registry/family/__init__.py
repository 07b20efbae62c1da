"""Families: versions and their graph, registration, aliases, cards and the log of changes."""
