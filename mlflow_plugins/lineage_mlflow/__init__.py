"""Plugins that make MLflow know about generations: one module per entry point."""
