"""Names of generation tasks in tables, and what is generated under which mask.

A row of a table is about one filter of a task, `<task>:<filter>`, as lm-eval reports each filter by
itself. Such rows are in no macro: a macro is the mean over tasks of multiple choice.
"""

from __future__ import annotations

from collections.abc import Iterable

from ablation.vocabulary.masks import CAUSAL, SAMPLED_MASKS
from ablation.vocabulary.protocols import metric_of, tasks_by_macro

EXACT_MATCH = "exact_match"  # the metric of every generation task
SEPARATOR = ":"  # of task and filter
# Masks that tell two texts apart. While a prompt is read there is no response that it could see, so
# under `full_bidir` a model would generate the text of `prefill_bidir`.
GENERATION_MASKS = SAMPLED_MASKS
ABLATED_GENERATION_MASKS = tuple(mask for mask in GENERATION_MASKS if mask != CAUSAL)
# Generation tasks whose prompts are items of the micro-world.
WORLD_GENERATION_TASKS = ("micro_open",)


def row_name(task: str, of_filter: str) -> str:
    """The name in tables of a filter of a generation task."""
    return f"{task}{SEPARATOR}{of_filter}"


def is_generated(row: str) -> bool:
    """Whether a row of a table is about a filter of a generation task."""
    return SEPARATOR in row


def metric_of_row(row: str, metric: str) -> str:
    """The metric of a row: `metric`, the study's, unless its task or protocol fixes another."""
    return EXACT_MATCH if is_generated(row) else metric_of(row, metric)


def macros(rows: Iterable[str]) -> dict[str, list[str]]:
    """`tasks_by_macro` of those rows that are in a macro."""
    return tasks_by_macro(row for row in rows if not is_generated(row))
