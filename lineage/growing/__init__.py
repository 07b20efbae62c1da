"""Growing of families: the succession of generations, their keys, training and registration."""
