"""The names of the second study, the cross-model bridge, as configuration and tables use them."""

from __future__ import annotations

# Regimes are kinds of questions. The questions of these two are generated from the micro-world of
# the bridge; the questions of the two below are read from data sets (ablation.bridge.data.readers).
COMPRESSION, ENRICHMENT = "compression", "enrichment"
REGIMES = (COMPRESSION, ENRICHMENT)
GSM8K, HOTPOTQA = "gsm8k", "hotpotqa"
DATA_SETS = (GSM8K, HOTPOTQA)

SPLITS = ("train", "dev", "test")

# Which model reads for which: SWAPPED exchanges source and target.
FORWARD, SWAPPED = "forward", "swapped"

# What the target reads: soft tokens alone; soft tokens and the text of the question; or the text,
# with the soft tokens added to the embeddings of its first tokens.
SOFT_ONLY, SOFT_PLUS_TEXT, ADAPTER = "soft_only", "soft_plus_text", "adapter"
MODES = (SOFT_ONLY, SOFT_PLUS_TEXT, ADAPTER)

# The kinds of translators. SOURCE_FREE is the control that does not read the source; the recipe
# with this translator has the same name.
RESAMPLER, DIFFUSION = "resampler", "diffusion"
SOURCE_FREE = "source_free"

# The ways to answer a question whose cost is measured.
ARMS = ("source_alone", "target_alone", "latent", "token_budget", "cascade")

# The controls that change the soft tokens of a trained translator; SOURCE_FREE is a control too,
# with a training of its own.
CONTROLS = ("shuffled_source", "zero_soft_tokens", "mean_soft_tokens")

# {number format: bits of each number of a soft token}
QUANTIZED_BITS = {"int8": 8, "int4": 4}
