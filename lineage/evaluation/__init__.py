"""Ancestors at work: ensembles of generations and comparisons of families."""
