"""Statistics and tables, computed from sample rows. No torch."""
