"""The two frozen models, what they read, and the translator between them."""
