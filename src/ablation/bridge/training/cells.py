"""Trains and evaluates all cells of one regime and seed in one process.

A cell is one trained translator: a regime, a recipe, a number K of soft tokens and a seed.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from ablation.bridge.evaluation.evaluate_cell import evaluate_cell
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.splits import Split
from ablation.bridge.model.translator import new_translator
from ablation.bridge.training.train import Trained, train_cell
from ablation.bridge.training.trainer import best_file
from ablation.config.bridge_blocks import Recipe
from ablation.config.study import ComputeSettings
from ablation.data.json_lines import read_json_lines
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import canonical_json, sha256_text, write_json_lines
from ablation.training.checkpoints import complete_checkpoints
from ablation.vocabulary.bridge import FORWARD, SWAPPED

EVALUATED = "evaluated.jsonl"  # sample rows of a finished cell, beside the checkpoints

# Keys of a recipe that are not part of its hash: they decide where and how a cell is evaluated.
NOT_HASHED = {"regimes", "soft_tokens", "controls", "audit", "noise_seeds"}


def cell_hash(recipe: Recipe, regime: str, k: int, seed: int) -> str:
    """The hash of a cell's configuration: cells of one hash are repeats, never an ablation."""
    own = recipe.model_dump(exclude=NOT_HASHED)
    return sha256_text(canonical_json([own, regime, k, seed]))[:12]


class Cells(NamedTuple):
    """Sample rows, summaries by cell, curves and run records of one regime and seed."""

    samples: list[dict]
    summary: dict[str, dict]
    curve: list[dict]
    record: dict[str, Any]


def run_cells(
    answering: Callable[[str], FrozenModel],
    splits: Mapping[str, Mapping[str, Split]],
    recipes: Mapping[str, Recipe],
    regime: str,
    seed: int,
    hardware: ComputeSettings,
    home: str | Path,
    translators: str | Path,
) -> Cells:
    """Train and evaluate the cells of all `recipes`, one for each of their K.

    `answering` gives the target of a direction, and `splits` has the questions of each direction.
    Checkpoints are in `home`, and the best weights are written to the folder `translators`.
    Finished evaluations are kept in `home`, so a restarted job skips them.
    """
    cells = Cells([], {}, [], {})
    gc.collect()
    gc.freeze()  # Each training starts with a garbage collection, which need not visit what stays.
    with atomic_path(translators) as scratch:
        scratch.mkdir()
        for name, recipe in recipes.items():
            direction = SWAPPED if recipe.swapped else FORWARD
            target, own = answering(direction), splits[direction]
            for k in recipe.soft_tokens:
                cell = f"{name}-k{k}"
                columns = {
                    "regime": regime,
                    "recipe": name,
                    "k": k,
                    "seed": seed,
                    "config": cell_hash(recipe, regime, k, seed),
                }
                label, folder = f"{regime} {cell} seed {seed}", Path(home) / cell
                trained = train_cell(target, own, recipe, k, seed, hardware, label, folder)
                meter = SectionMeter(label)
                rows = _evaluated(target, own, recipe, k, seed, trained, folder, meter)
                cells.samples.extend(columns | row for row in rows)
                facts = {"direction": direction, "mode": recipe.mode}
                facts["translator"] = recipe.translator.kind
                cells.summary[cell] = columns | facts | trained.summary
                cells.curve.extend(columns | point for point in trained.curve)
                cells.record[cell] = trained.record | {"sections": meter.sections}
                save_file(trained.best, scratch / f"{cell}.safetensors")
    return cells


def _evaluated(
    target: FrozenModel,
    splits: Mapping[str, Split],
    recipe: Recipe,
    k: int,
    seed: int,
    trained: Trained,
    folder: Path,
    meter: SectionMeter,
) -> list[dict]:
    """The sample rows of a trained cell, from `folder` if it was evaluated before."""
    file, test = folder / EVALUATED, splits["test"]
    if not file.is_file():
        width = test.activations[0].shape[-1]
        translator = new_translator(recipe, k, width, target.model, seed)
        weights = {"best": trained.best, "last": trained.last}
        some = splits["train"].activations[: len(test.activations)]
        rows = evaluate_cell(target, translator, weights, recipe, test, some, meter)
        write_json_lines(file, rows)
        remove_old_weights(folder, trained.summary["best_step"])
    return read_json_lines(file)


def remove_old_weights(home: Path, best: int) -> None:
    """Keep of a finished training only its last checkpoint and its best weights."""
    for old in complete_checkpoints(home)[:-1]:
        shutil.rmtree(old)
    for file in home.glob("best-*.safetensors"):
        if file != best_file(home, best):
            file.unlink()
