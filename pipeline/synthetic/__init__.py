"""Data sets made of nothing."""
