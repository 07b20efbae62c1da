"""Networks that come in from elsewhere."""
