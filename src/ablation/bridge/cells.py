"""What the jobs of the second study do, between their inputs and their outputs."""

from __future__ import annotations

import gc
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import nn

from ablation.atomic import atomic_path
from ablation.bridge import cache, prompts
from ablation.bridge.evaluate import alone, evaluate_cell
from ablation.bridge.forwards import Meter
from ablation.bridge.inference import cache_formula
from ablation.bridge.pair import Pair
from ablation.bridge.prompts import SPLITS
from ablation.bridge.train import Split, new_translator, train_cell
from ablation.progress import Progress
from ablation.provenance import (
    canonical_json,
    read_json_lines,
    sha256_text,
    write_bytes,
    write_json_lines,
)
from ablation.states import complete_states

READ_BATCH = 64  # questions a forward while the frozen models read, at most
ASKED = "asked.jsonl"  # rows of a cell, beside its training's states
FILE_QUESTIONS = 256  # questions whose states stand in one file


def cell_hash(recipe: Mapping, regime: str, k: int, seed: int) -> str:
    """Names a configuration: two rows of one hash are repeats, never an ablation."""
    shapes = {n: v for n, v in recipe.items() if n not in ("controls", "audit", "noise_seeds")}
    return sha256_text(canonical_json([shapes, regime, k, seed]))[:12]


def write_samples(path: str | Path, rows: Sequence[Mapping]) -> None:
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def read_questions(folder: str | Path, regime: str, split: str) -> list[dict]:
    return read_json_lines(Path(folder) / regime / f"{split}.jsonl")


def read_once(
    pair: Pair,
    questions: str | Path,
    regime: str,
    config: Mapping,
    home: str | Path,
    meter: Meter | None = None,
) -> list[dict]:
    """Write every split's cached states as files in `home`/<split>; rows of the arms alone.

    A file holds some hundred questions, so that no split need fit into memory.
    """
    options, test, meter = config["options"], [], meter or Meter()
    named = {"regime": regime, "direction": config["direction"]}
    for split in SPLITS:
        records = read_questions(questions, regime, split)
        progress = Progress(f"{regime} {config['direction']}: reading {split}", len(records))
        with meter.section(f"read {split}", len(records)), atomic_path(Path(home) / split) as own:
            own.mkdir()
            for start in range(0, len(records), FILE_QUESTIONS):
                some = records[start : start + FILE_QUESTIONS]
                parts = read_some(pair, some, options, teacher=split == "train")
                cache.save(own / f"{start:06}.safetensors", **parts)
                progress.update(start + len(some))
        test = records
    found = alone(pair, test, config["budgets"], config["answers"], meter)
    lengths = [len(pair.target_words.encode(prompts.problem(r["question"]))) for r in test]
    return [named | row | {"question_tokens": lengths[row["item"]]} for row in found]


def read_some(
    pair: Pair, records: Sequence[Mapping], options: Mapping, teacher: bool
) -> dict[str, cache.Ragged]:
    """What is cached of some questions: source states, and what the teacher says of answers."""
    asked = [record["question"] for record in records]
    layer = options["layer"]
    parts = {
        "states": cache.source_states(pair.source, pair.source_words, asked, layer, READ_BATCH)
    }
    if teacher:
        parts["teacher"], parts["teacher_ids"] = cache.teacher_logprobs(
            pair.target, pair.target_words, records, options["teacher_top"], READ_BATCH
        )
    return parts


def target_facts(pair: Pair) -> dict[str, int]:
    """What tables of memory need to know of the target."""
    model = pair.target
    return {
        "target_width": model.get_input_embeddings().weight.shape[1],
        "target_kv_bytes_a_token": cache_formula(model.config, 1, model.dtype.itemsize),
    }


def read_splits(
    questions: str | Path, states: str | Path, regime: str, names: Sequence[str] = SPLITS
) -> dict[str, Split]:
    """Questions with what the frozen models said of them."""
    return {
        split: Split.of(
            read_questions(questions, regime, split),
            cache.load(Path(states) / split),
        )
        for split in names
    }


class Cells(NamedTuple):
    """What the cells of one regime and seed gave."""

    samples: list[dict]
    summary: dict[str, dict]
    curve: list[dict]
    record: dict


def run_cells(
    answering: Callable[[str], Pair],
    splits: Mapping[str, Mapping[str, Split]],
    config: Mapping,
    state: str | Path,
    translators: str | Path,
) -> Cells:
    """Train and ask every cell of `config`; `splits` by direction, best weights to a folder.

    `answering` gives the pair of a direction. A cell that has been asked is not asked again
    when the job is killed later: its rows wait in `state`.
    """
    regime, seed = config["regime"], config["seed"]
    cells, record = Cells([], {}, [], {}), {}
    gc.collect()
    gc.freeze()  # each training looks for garbage when it begins: not among what stays
    with atomic_path(translators) as scratch:
        scratch.mkdir()
        for name, recipe in config["recipes"].items():
            direction = "swapped" if recipe["swapped"] else "forward"
            facing, own = answering(direction), splits[direction]
            settings = {n: v for n, v in recipe.items() if n != "soft_tokens"}
            for k in recipe["soft_tokens"]:
                cell = f"{name}-k{k}"
                named = {
                    "regime": regime,
                    "recipe": name,
                    "k": k,
                    "seed": seed,
                    "config": cell_hash(settings, regime, k, seed),
                }
                trained = train_cell(
                    facing.target,
                    facing.target_words,
                    own,
                    settings,
                    k,
                    seed,
                    config["hardware"],
                    f"{regime} {cell} seed {seed}",
                    Path(state) / cell,
                )
                width = own["test"].states[0].shape[-1]
                translator = new_translator(settings, k, width, facing.target, seed)
                weights = {"best": trained.best, "last": trained.last}
                some = own["train"].states[: len(own["test"].states)]
                meter, asked = Meter(f"{regime} {cell} seed {seed}"), Path(state) / cell / ASKED
                if not asked.is_file():
                    test = own["test"]
                    rows = evaluate_cell(facing, translator, weights, settings, test, some, meter)
                    write_json_lines(asked, rows)
                    slim(asked.parent, trained.summary["best_step"])
                cells.samples.extend(named | row for row in read_json_lines(asked))
                facts = {"direction": direction, "mode": settings["mode"]}
                facts["translator"] = settings["translator"]["kind"]
                cells.summary[cell] = named | facts | trained.summary
                cells.curve.extend(named | point for point in trained.curve)
                record[cell] = trained.record | {"sections": meter.sections}
                save_file(trained.best, scratch / f"{cell}.safetensors")
    return cells._replace(record={"cells": record})


def slim(state: Path, best: int) -> None:
    """Leave of a finished training what its report needs: the last state and the best weights."""
    for old in complete_states(state)[:-1]:
        shutil.rmtree(old)
    for file in state.glob("best-*.safetensors"):
        if file.name != f"best-{best}.safetensors":
            file.unlink()


def load_translator(file: str | Path, recipe: Mapping, k: int, pair: Pair) -> nn.Module:
    """A trained translator from its file, in eval mode."""
    width = pair.source.get_input_embeddings().weight.shape[1]
    translator = new_translator(recipe, k, width, pair.target, seed=0)
    translator.load_state_dict(load_file(file))
    return translator.eval()
