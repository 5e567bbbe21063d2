"""The names of the second study, the cross-model bridge, as configuration and tables use them."""

from __future__ import annotations

# Regimes are kinds of questions. The questions of these three are generated from the micro-world of
# the bridge; the questions of those below are read from data sets (ablation.bridge.data.readers).
COMPRESSION, QUERY_AGNOSTIC, ENRICHMENT = "compression", "query_agnostic", "enrichment"
REGIMES = (COMPRESSION, QUERY_AGNOSTIC, ENRICHMENT)
GSM8K, HOTPOTQA = "gsm8k", "hotpotqa"
HOTPOTQA_QUERY_AGNOSTIC = "hotpotqa_query_agnostic"
DATA_SETS = (GSM8K, HOTPOTQA, HOTPOTQA_QUERY_AGNOSTIC)

# In these regimes the source reads a text before the question about it is known.
AGNOSTIC = (QUERY_AGNOSTIC, HOTPOTQA_QUERY_AGNOSTIC)

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
ARMS = ("source_alone", "target_alone", "latent", "token_budget", "text_answer", "cascade")

# The bars that every cell of a freeze must pass: its share of target-alone's accuracy, or to be
# better than the source alone and the target alone.
KEEPS_TARGET, BEATS_BOTH = "keeps_target", "beats_both"
BARS = (KEEPS_TARGET, BEATS_BOTH)

# The controls that change the soft tokens of a trained translator; SOURCE_FREE is a control too,
# with a training of its own.
CONTROLS = ("shuffled_source", "zero_soft_tokens", "mean_soft_tokens")

# {number format: bits of each number of a soft token}
QUANTIZED_BITS = {"int8": 8, "int4": 4}
SOFT_BITS = {"float32": 32, "float16": 16, **QUANTIZED_BITS}
SCALE_BYTES = 4  # each quantized soft token has a scale


def soft_token_bytes(k: int, width: int, number_format: str) -> int:
    """Bytes of K soft tokens of `width` numbers; quantized ones have a scale each."""
    scale = SCALE_BYTES if number_format in QUANTIZED_BITS else 0
    return k * (-(-width * SOFT_BITS[number_format] // 8) + scale)


def fewest_soft_token_bytes(k: int, width: int) -> int:
    """Bytes of K soft tokens in the smallest format: a text answer may have no more."""
    return min(soft_token_bytes(k, width, name) for name in SOFT_BITS)
