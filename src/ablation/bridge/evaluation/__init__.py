"""Generates the answers of every arm, scores them and measures what they cost."""
