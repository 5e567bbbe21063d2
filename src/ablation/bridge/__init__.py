"""The second study: one model reads, a translator speaks soft tokens, another model answers."""
