"""Tables, trees, pages and progress: draws plain values, and imports no torch."""
