"""The closed sets of names that rules, code and tables share. No imports: read at parse time."""

MASKS = ("causal", "prefill_bidir", "full_bidir")
ABLATED_MASKS = ("prefill_bidir", "full_bidir")  # `causal` gives the baseline and side effects
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_token", "acc_token_float32")
PROTOCOLS = ("lm_eval", "published")  # prompts, tokenization and what of a choice is scored
MACRO = "macro"  # the task name of the unweighted mean over tasks
ALL_SEEDS = "all"  # the seed name of a row over every seed of a recipe
