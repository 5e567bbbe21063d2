"""Trains translators between frozen models, and the two models of the micro bridge."""
