"""Staged language-model ablations: take something away, train, and prove what came back."""
