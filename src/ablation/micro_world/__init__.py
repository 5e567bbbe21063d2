"""The micro-world: a small world of texts with scenes, corpus, tasks and a base model."""
