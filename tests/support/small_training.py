"""A recipe, records and a training that are small enough for tests."""

import json

from ablation.config.fields import NoLearning, Plateau
from ablation.config.study import ComputeSettings, Leak, Recipe, StopRules
from ablation.training.finetune import finetune

HARDWARE = ComputeSettings(gpu=0, threads=1, dtype="float32", attention="sdpa", compile=False)
RULES = {"no_learning": NoLearning, "plateau": Plateau, "leak": Leak}
KEYS = {
    "train_mask": "prefill_bidir",
    "max_steps": 4,
    "batch_examples": 8,
    "micro_batch_examples": 8,
    "max_seq_len": 64,
    "row_tokens": None,
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "warmup_steps": 1,
    "schedule": "linear",
    "optimizer": "adamw_torch",
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "log_steps": 1,
    "save_steps": 100,
    "eval_steps": 2,
    "eval_samples": 3,
    "format": "corrected",
    "heldout_fraction": 0.1,
    "max_examples": None,
    "stops": {},
}


def stop_rules(**rules):
    """The early stopping by `rules`, plain mappings; the limits of their values are not checked."""
    given = {name: rule for name, rule in rules.items() if rule is not None}
    made = {name: RULES[name].model_construct(**rule) for name, rule in given.items()}
    return StopRules.model_construct(**dict.fromkeys(RULES) | made)


def recipe(**changes):
    """The recipe of tests with `changes`. Limits are not checked: some tests go beyond them."""
    values = KEYS | changes
    return Recipe.model_construct(**values | {"stops": stop_rules(**values["stops"])})


def write_records(file):
    words = "red green blue cat dog sun moon tree".split()
    records = [
        {
            "instruction": f"Say {words[i % 8]}.",
            "input": words[i % 5] if i % 2 else "",
            "output": " ".join([words[i % 8]] * (1 + i % 4)),
        }
        for i in range(60)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))


def run(model, tokenizer, data, tmp_path, seed=1, **changes):
    """(summary, curve, weights) of a training from a clean state."""
    state = tmp_path / f"state{len(list(tmp_path.iterdir()))}"
    tuned = finetune(
        lambda: (model, tokenizer), data, recipe(**changes), seed, HARDWARE, "test", state
    )
    weights = {k: v.clone() for k, v in tuned.model.state_dict().items()}
    return tuned.summary, tuned.curve, weights
