"""Figures, HTML pages and terminal tables."""
