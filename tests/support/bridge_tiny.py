"""Two tiny models that share no shapes, and a recipe for translators between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablation.bridge.model.activations import source_activations, teacher_logprobs
from ablation.bridge.model.pair import FrozenModel, Pair
from ablation.bridge.model.prompt_encoder import PromptEncoder
from ablation.bridge.model.splits import SOURCE, TEACHER, TEACHER_IDS, Split
from ablation.config.bridge_blocks import Recipe
from ablation.config.load import load_study
from ablation.config.study import ComputeSettings, Study
from tests.support.tiny import tiny_model, tiny_tokenizer

CONFIG = Path(__file__).resolve().parents[2] / "config"
RECORDS = [
    {"question": f"Then {a} gave {n} keys to {b}.", "answer": str(n)}
    for n, (a, b) in enumerate(
        [("Tom", "Eve"), ("Ann", "Tom"), ("Eve", "Ann"), ("Ann", "Eve"), ("Tom", "Ann")] * 2
    )
]
HARDWARE = ComputeSettings(gpu=0, threads=1, dtype="float32", attention="sdpa", compile=False)


def bridge_study(**overrides: Any) -> Study:
    """The shipped study of the bridge, with `overrides` on its `bridge:` block."""
    return load_study({"extends": "bridge.yaml", "bridge": overrides}, CONFIG)


def recipe(name: str = "all_fixes", **overrides: Any) -> Recipe:
    """A recipe of the shipped study, shortened to a few steps of tiny models.

    An override that is a mapping changes only its own keys of a block.
    """
    short = {
        "max_steps": 4,
        "batch_examples": 4,
        "micro_batch_examples": 4,
        "warmup_steps": 1,
        "log_steps": 1,
        "save_steps": 2,
        "eval_steps": 2,
        "eval_samples": 4,
        "max_new_tokens": 4,
        "stops": {"no_learning": None, "plateau": None},
    }
    found = bridge_study().bridge.recipes[name].model_dump() | short
    found["translator"] = found["translator"] | {"width": 16, "heads": 2, "steps": 2}
    for key, value in overrides.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    return Recipe.model_validate(found)


def pair() -> Pair:
    """A source with four key/value heads and a target with two."""
    source = tiny_model("mistral", 320, hidden_size=48, num_key_value_heads=4, sliding_window=None)
    target = tiny_model("llama", 320)
    encoders = (PromptEncoder(tiny_tokenizer(), 64) for _ in range(2))
    models = (model.requires_grad_(False) for model in (source, target))
    return Pair(*(FrozenModel(*both) for both in zip(models, encoders, strict=True)))


def split(both: Pair, records: list[dict] = RECORDS) -> Split:
    """A split of `records` with the activations of both models."""
    questions = [record["question"] for record in records]
    arrays = {SOURCE: source_activations(both.source, questions, -1, 4)}
    arrays[TEACHER], arrays[TEACHER_IDS] = teacher_logprobs(both.target, records, 8, 4)
    return Split.of(records, {name: rows.rows() for name, rows in arrays.items()})
