"""The protocols of scoring, and the names of tasks and macros that belong to them.

A protocol fixes the prompts, the tokenization and the metric of a task. A macro is the unweighted
mean over the tasks of one protocol. The prefix of a task's name determines its protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

LM_EVAL_PROTOCOL = "lm_eval"  # as the evaluation harness lm-eval defines its tasks
PUBLISHED_PROTOCOL = "published"  # as the published study defined the same tasks
PROTOCOLS = (LM_EVAL_PROTOCOL, PUBLISHED_PROTOCOL)
PUBLISHED_PREFIX = "published_"  # the start of the names of tasks and macro of that protocol
PUBLISHED_METRIC = "acc_token"
MACRO = "macro"  # used in place of a task's name
_WHOLE_MACROS = (MACRO, PUBLISHED_PREFIX + MACRO)
# Endings of the macros over those tasks of a macro whose family a recipe's records hold, or not.
TRAINED, HELD_OUT = "trained", "held_out"
MIXED = "mixed"  # a macro over tasks of both kinds
PARTIAL_MACROS = tuple(f"{macro}_{part}" for macro in _WHOLE_MACROS for part in (TRAINED, HELD_OUT))
MACROS = (*_WHOLE_MACROS, *PARTIAL_MACROS)
ALL_SEEDS = "all"  # used in place of a seed: the row covers every seed of a recipe


def protocol_of(task: str) -> str:
    """The protocol of a task or macro."""
    return PUBLISHED_PROTOCOL if task.startswith(PUBLISHED_PREFIX) else LM_EVAL_PROTOCOL


def metric_of(task: str, metric: str) -> str:
    """The metric of a task: `metric`, the study's, unless the task's protocol fixes another."""
    return PUBLISHED_METRIC if protocol_of(task) == PUBLISHED_PROTOCOL else metric


def exposure(tasks: Iterable[str], families: Collection[str]) -> str:
    """Whether finetuning records of these families hold those of the tasks.

    TRAINED if they hold all, HELD_OUT if they hold none, else MIXED. The family of a task is its
    name.
    """
    held = {task in families for task in tasks}
    return MIXED if len(held) > 1 else TRAINED if True in held else HELD_OUT


def tasks_by_exposure(tasks: Iterable[str], families: Collection[str]) -> dict[str, list[str]]:
    """{partial macro: its tasks}, for each macro over tasks of both kinds."""
    found: dict[str, list[str]] = {}
    for macro, group in tasks_by_macro(tasks).items():
        for task in group if exposure(group, families) == MIXED else ():
            found.setdefault(f"{macro}_{exposure([task], families)}", []).append(task)
    return found


def tasks_of_row(
    name: str, tasks: Iterable[str], families: Collection[str] = frozenset()
) -> list[str]:
    """The tasks that a row of the task or macro `name` is the mean of."""
    tasks = list(tasks)
    groups = tasks_by_macro(tasks) | tasks_by_exposure(tasks, families)
    return groups.get(name, [name])


def tasks_by_macro(tasks: Iterable[str]) -> dict[str, list[str]]:
    """{macro: the tasks that it is the mean of}, for each protocol that has tasks."""
    tasks = list(tasks)
    groups = {m: [t for t in tasks if protocol_of(t) == protocol_of(m)] for m in _WHOLE_MACROS}
    return {macro: group for macro, group in groups.items() if group}
