"""Looks after a family: history, doctor, removal and aliases."""
