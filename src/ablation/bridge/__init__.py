"""The second study: a translator between two frozen models."""
