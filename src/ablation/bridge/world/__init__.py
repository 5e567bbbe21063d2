"""A question world for two small models: numbers told in a text, and numbers that only one knows."""
