"""Care of families: examination and repair, removal."""
