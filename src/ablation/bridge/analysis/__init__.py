"""Computes the tables of the second study from its sample rows. No torch here."""
