"""Figures of a report: plain values in, Matplotlib drawings out. No torch."""
