"""Which generation tasks of lm-eval can be tabulated: those of greedy texts with an exact match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablation.data.generation.exact_match import FIRST, TEXT_FILTERS
from ablation.vocabulary.generation import EXACT_MATCH

GENERATION_TYPE = "generate_until"  # lm-eval's name of the output type
OWN_METRICS = "its own metrics (process_results)"
# The keys of generation_kwargs that greedy decoding reads; the last four mean the same.
GREEDY_KEYS = (
    *("until", "do_sample", "temperature"),
    *("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"),
)


def generation_reason(task: Mapping[str, Any]) -> str:
    """The reason why a generation task with this configuration cannot be tabulated, or ""."""
    settings = task.get("generation_kwargs") or {}
    if task.get("process_results"):
        return OWN_METRICS
    if task.get("unsafe_code"):
        return "generated code that would be run (unsafe_code)"
    if (repeats := task.get("repeats") or 1) != 1:
        return f"{repeats} texts an item (repeats)"
    # lm-eval ignores a temperature beside `do_sample: false`.
    chosen = () if settings.get("do_sample") is False else ("do_sample", "temperature")
    other = [key for key in settings if key not in GREEDY_KEYS or (key in chosen and settings[key])]
    if other:
        named = ", ".join(f"{key}: {settings[key]}" for key in other)
        return f"generation_kwargs with {named}, where only greedy decoding is possible,"
    metrics = task.get("metric_list") or [{"metric": EXACT_MATCH}]
    own = [entry for entry in metrics if entry.get("metric") == EXACT_MATCH]
    if not own or own[0].get("hf_evaluate"):
        names = ", ".join(_short(entry.get("metric")) for entry in metrics)
        return f"metrics ({names}) without lm-eval's own {EXACT_MATCH}"
    for entry in task.get("filter_list") or ():
        steps = [step.get("function") for step in entry.get("filter") or ()]
        if unknown := [step for step in steps if step not in TEXT_FILTERS]:
            return f"the filter {_short(unknown[0])}, which reads more than the text,"
        if FIRST not in steps:
            return f"the filter {entry.get('name')} without {FIRST}"
    return ""


def _short(name: Any) -> str:
    """The name of a filter or metric; of one in Python, without the folder of its file."""
    return str(name).rpartition("/")[2]
