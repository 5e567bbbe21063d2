"""Words that folders and tables use for what was taken away from a model."""

from __future__ import annotations

# The folder of the scores of a checkpoint without what was taken away while it was trained.
LIFTED = "lifted"
# Names that no intervention can have, because tables, folders or recipes use them for something
# else: a long training has its checkpoint in `model`, and 3B-leaky trains under full_bidir.
RESERVED = ("all", "base", "leaky", LIFTED, "model")
