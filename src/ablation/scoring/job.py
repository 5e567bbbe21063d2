"""A scoring job: one checkpoint under several conditions, on one card or on several of a machine.

Each rank builds all items and packs all rows, computes its share of the rows, and gets the scores
of the others; rank 0 writes the results.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ablation.config.study import ComputeSettings
from ablation.interventions.loading import load_under
from ablation.interventions.protocol import Intervention
from ablation.model.checkpoints import read_tokenizer
from ablation.model.checks.agreement import require_agreement
from ablation.parallel import launch
from ablation.parallel.collectives import rank, ranks
from ablation.provenance.run_records import run_record
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items

MOST_HALVINGS = 6  # of the rows, before memory counts as too small


@dataclass(frozen=True)
class Scoring:
    """What a scoring job does; several ranks receive it by pickling.

    folder: the model's folder. name: that of the checkpoint in sample rows.
    taken, trained_under: see `load_under`.
    evaluation: the study's `evaluation:` without its metric; data, task_folder: see `Items`.
    masks, conditions, homes: of each condition its mask, its name in results, and its folder.
    halved: how often the capacity of rows was halved, because memory was short.
    """

    hardware: ComputeSettings
    folder: Path
    name: str
    taken: Intervention | None
    trained_under: Mapping[str, Any] | None
    evaluation: Mapping[str, Any]
    data: Path | None
    task_folder: str
    masks: Sequence[str]
    conditions: Sequence[str]
    homes: Sequence[str]
    label: str
    halved: int = 0


class Scored(NamedTuple):
    """What was written for one condition: its files, its facts for the manifest."""

    outputs: list[Path]
    leaks: bool
    circumstances: dict[str, Any]


def score_on(scoring: Scoring, processes: int) -> list[Scored]:
    """Score under each condition, on so many ranks, with a run record in each folder.

    The results are the same bytes for any number of ranks on cards of one kind. If a rank runs out
    of memory, all begin again with rows of half the capacity, as one rank goes on with them.
    """
    if processes <= 1:
        return score(scoring)
    while True:
        try:
            return launch.run(score, scoring, ranks=processes, gpu=scoring.hardware.gpu > 0)
        except torch.OutOfMemoryError:
            if scoring.halved == MOST_HALVINGS:
                raise
        scoring = replace(scoring, halved=scoring.halved + 1)
        print(f"{scoring.label}: out of memory, now rows of half the capacity", file=sys.stderr)


def score(scoring: Scoring) -> list[Scored]:
    """`score_on` as one of the ranks that there are, each of which calls it."""
    options = dict(scoring.evaluation) | {"data_folder": scoring.data}
    sizes = {key: options.pop(key) for key in ("row_tokens", "batch_tokens")}
    # Not in the thread, whose imports of transformers could meet those of the model half done.
    tokenizer = read_tokenizer(scoring.folder)
    with ThreadPoolExecutor(1) as pool:  # the items are built while the weights are copied
        building = pool.submit(Items, tokenizer, task_folder=scoring.task_folder, **options)
        model, _ = load_under(
            scoring.hardware, scoring.folder, scoring.taken, scoring.trained_under
        )
        agreement = require_agreement(model).as_dict()
        items = building.result()
    found = []
    for mask, condition, home in zip(scoring.masks, scoring.conditions, scoring.homes, strict=True):
        with _recorded(home) as record:
            record |= {"stock_agreement": agreement, "ranks": ranks()}
            result = evaluate(
                model,
                items,
                mask,
                scoring.name,
                label=f"{scoring.label} {mask}",
                intervention=scoring.taken,
                condition=condition,
                halved=scoring.halved,
                **sizes,
            )
        outputs = result.write(home) if rank() == 0 else []
        leaks = result.facts["leak_audit"]["leaks"]
        found.append(Scored(outputs, leaks, result.circumstances))
    return found


def _recorded(home: str) -> AbstractContextManager[dict[str, Any]]:
    return run_record(f"{home}/run.json") if rank() == 0 else nullcontext({})
