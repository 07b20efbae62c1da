"""How a family is shown: tables and trees."""
