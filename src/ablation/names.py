"""The names that rules, code and tables share: closed sets, and what the name of a task says.

Read at parse time, so nothing heavy is imported.
"""

from collections.abc import Iterable

MASKS = ("causal", "prefill_bidir", "full_bidir")
ABLATED_MASKS = ("prefill_bidir", "full_bidir")  # `causal` gives the baseline and side effects
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_token", "acc_token_float32")
PROTOCOLS = ("lm_eval", "published")  # prompts, tokenization and what of a choice is scored
PUBLISHED = "published_"  # so begin the names of tasks of that protocol, and of their macro
PUBLISHED_METRIC = "acc_token"
MACRO = "macro"  # the task name of the unweighted mean over the tasks of a protocol
MACROS = (MACRO, PUBLISHED + MACRO)
ALL_SEEDS = "all"  # the seed name of a row over every seed of a recipe


def protocol_of(task: str) -> str:
    """The protocol under which a task is scored, or a macro was taken: its name says it."""
    return "published" if task.startswith(PUBLISHED) else "lm_eval"


def metric_of(task: str, metric: str) -> str:
    """What a task is judged by: the study's `metric`, or the one that its protocol brings."""
    return PUBLISHED_METRIC if protocol_of(task) == "published" else metric


def macros(tasks: Iterable[str]) -> dict[str, list[str]]:
    """{macro: the tasks that it is the mean of}: one a protocol, those that have tasks."""
    tasks = list(tasks)
    groups = {m: [t for t in tasks if protocol_of(t) == protocol_of(m)] for m in MACROS}
    return {macro: group for macro, group in groups.items() if group}
