"""Two tiny models that share no shapes, and a recipe for translators between them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from tiny import tiny_model, tiny_tokenizer

from ablation.bridge import cache
from ablation.bridge.batches import Words
from ablation.bridge.pair import Pair
from ablation.bridge.train import Split
from ablation.config import load_study

CONFIG = Path(__file__).resolve().parents[2] / "config"
RECORDS = [
    {"question": f"Then {a} gave {n} keys to {b}.", "answer": str(n)}
    for n, (a, b) in enumerate(
        [("Tom", "Eve"), ("Ann", "Tom"), ("Eve", "Ann"), ("Ann", "Eve"), ("Tom", "Ann")] * 2
    )
]
HARDWARE = {"gpu": 0, "threads": 1, "dtype": "float32", "attention": "sdpa", "compile": False}


def bridge_study(**overrides):
    """The shipped study of the bridge, with `overrides` on its `bridge:` block."""
    return load_study({"extends": "bridge.yaml", "bridge": overrides}, CONFIG)


def recipe(name: str = "all_fixes", **over) -> dict:
    """A recipe of the shipped study, shortened to some steps of tiny models."""
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
    }
    block = bridge_study().bridge
    found = deepcopy(block.recipe(name)) | short
    found["translator"] = found["translator"] | {"width": 16, "heads": 2, "steps": 2}
    for key, value in over.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    return found


def pair() -> Pair:
    """A source with four key/value heads, a target with two."""
    words = Words(tiny_tokenizer(), 64)
    source = tiny_model("mistral", 320, hidden_size=48, num_key_value_heads=4, sliding_window=None)
    target = tiny_model("llama", 320)
    return Pair(
        source.requires_grad_(False),
        words,
        target.requires_grad_(False),
        Words(tiny_tokenizer(), 64),
    )


def split(both: Pair, records=RECORDS) -> Split:
    asked = [record["question"] for record in records]
    parts = {"states": cache.source_states(both.source, both.source_words, asked, -1, 4)}
    parts["teacher"], parts["teacher_ids"] = cache.teacher_logprobs(
        both.target, both.target_words, records, 8, 4
    )
    return Split.of(records, {name: part.rows() for name, part in parts.items()})
