"""Prompts, answers, questions and data sets of the second study. No torch here."""
