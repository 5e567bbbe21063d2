"""A recipe, records and a training that are small enough for tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ablation.config.fields import NoLearning, Plateau
from ablation.config.study import ComputeSettings, Leak, Recipe, StopRules
from ablation.training.finetune import finetune
from ablation.training.trainer import MaskedTrainer

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


class Stopped(Exception):
    """A training is stopped in its middle."""


@contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """A block whose training is stopped after so many steps."""

    class Stopping(MaskedTrainer):
        def training_step(self, *arguments, **options):
            if self.state.global_step == steps:
                raise Stopped
            return super().training_step(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("ablation.training.finetune.MaskedTrainer", Stopping)
        yield


def run(model, tokenizer, data, tmp_path, seed=1, **changes):
    """(summary, curve, weights) of a training from a clean state."""
    state = tmp_path / f"state{len(list(tmp_path.iterdir()))}"
    tuned = finetune(
        lambda: (model, tokenizer), data, recipe(**changes), seed, HARDWARE, "test", state
    )
    weights = {k: v.clone() for k, v in tuned.model.state_dict().items()}
    return tuned.summary, tuned.curve, weights
