"""Decoder models, attention masks, packed rows and tokenizers."""
