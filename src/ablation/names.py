"""The closed sets of names that rules, code and tables share. No imports: read at parse time."""

MASKS = ("causal", "prefill_bidir", "full_bidir")
ABLATED_MASKS = (
    "prefill_bidir",
    "full_bidir",
)  # stages 2 and 4; `causal` is stage 1 and side effect
LONG_RECIPES = ("5A", "5B", "5C")  # stage 5: 3B's objective for longer
RECIPES = ("3A", "3B", "3B-leaky", *LONG_RECIPES)
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_token", "acc_token_float32")
PROTOCOLS = ("lm_eval", "published")  # prompts, tokenization and what of a choice is scored
MACRO = "macro"  # the task name of the unweighted mean over tasks
ALL_SEEDS = "all"  # the seed name of a row over every seed of a recipe
