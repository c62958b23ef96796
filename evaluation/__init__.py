"""Scoring, accuracy, timing and the records of results."""
