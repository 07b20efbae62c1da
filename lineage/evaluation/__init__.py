"""Commands on registered versions: evaluate, ensemble, transfer, compare and diff."""
