"""A family as plain values and files, to carry it from one store to another."""
