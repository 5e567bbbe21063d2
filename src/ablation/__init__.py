"""Staged language-model ablations: take something away, train, and measure what came back."""

import gc

# The imports of torch and transformers make a million objects that stay. With Python's own
# threshold a fifth of their seconds goes into looking for garbage among them.
gc.set_threshold(100_000, *gc.get_threshold()[1:])
