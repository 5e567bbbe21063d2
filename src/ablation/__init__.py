"""Staged language-model ablations: take something away, train, and measure what came back."""
