"""A question world for two small models: numbers that a text tells, or that only one knows."""
