"""What comes in and goes out: adopted networks, packed families, the outbox of offline growing."""
