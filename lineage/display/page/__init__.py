"""The page of a family: an HTML template, a style sheet and JavaScript modules, and their rendering."""
