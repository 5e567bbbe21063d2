"""The protocols of scoring, and the names of tasks and macros that belong to them.

A protocol fixes the prompts, the tokenization and the metric of a task. A macro is the unweighted
mean over the tasks of one protocol. The prefix of a task's name determines its protocol.
"""

from __future__ import annotations

from collections.abc import Iterable

LM_EVAL_PROTOCOL = "lm_eval"  # as the evaluation harness lm-eval defines its tasks
PUBLISHED_PROTOCOL = "published"  # as the published study defined the same tasks
PROTOCOLS = (LM_EVAL_PROTOCOL, PUBLISHED_PROTOCOL)
PUBLISHED_PREFIX = "published_"  # the start of the names of tasks and macro of that protocol
PUBLISHED_METRIC = "acc_token"
MACRO = "macro"  # used in place of a task's name
MACROS = (MACRO, PUBLISHED_PREFIX + MACRO)
ALL_SEEDS = "all"  # used in place of a seed: the row covers every seed of a recipe


def protocol_of(task: str) -> str:
    """The protocol of a task or macro."""
    return PUBLISHED_PROTOCOL if task.startswith(PUBLISHED_PREFIX) else LM_EVAL_PROTOCOL


def metric_of(task: str, metric: str) -> str:
    """The metric of a task: `metric`, the study's, unless the task's protocol fixes another."""
    return PUBLISHED_METRIC if protocol_of(task) == PUBLISHED_PROTOCOL else metric


def tasks_by_macro(tasks: Iterable[str]) -> dict[str, list[str]]:
    """{macro: the tasks that it is the mean of}, for each protocol that has tasks."""
    tasks = list(tasks)
    groups = {m: [t for t in tasks if protocol_of(t) == protocol_of(m)] for m in MACROS}
    return {macro: group for macro, group in groups.items() if group}
