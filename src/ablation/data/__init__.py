"""Data sets, task files and records, before a model reads them."""
