"""What is done with registered versions: evaluate, ensemble, transfer, compare and diff."""
