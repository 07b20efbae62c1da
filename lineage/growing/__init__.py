"""Grows families: the succession of generations, what each one depends on, and its registration."""
