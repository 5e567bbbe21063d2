"""Reads the sample files of lm-eval, `samples_TASK_DATE.jsonl`: one line an item and filter.

`lm_eval --log_samples` writes them, and so does `ablation export lm-eval`, which adds `cluster`,
`condition` and `leaks`. A file may come from anywhere, so nothing in it is relied on unchecked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# What a line holds beside its metrics. Releases of lm-eval before 0.4.9 do not list the metrics.
NO_METRICS = (
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash", "cluster", "condition", "leaks"),
)
# The fields of a document that name its cluster, as `ablation.scoring.items.CLUSTER_FIELDS`.
CLUSTER_FIELDS = ("cluster", "activity_label")
UNFILTERED = "none"  # lm-eval's name of the filter that changes nothing
NO_LEAK = "-"


class ItemText(NamedTuple):
    """The texts of an item: its document, its target, and the arguments of its requests.

    These are (context, continuation) a choice, and (context, settings) of a text to be generated.
    """

    doc: Mapping[str, Any]
    target: str
    arguments: list[tuple[Any, ...]]


class InvalidSamples(ValueError):
    """A file is no sample file of lm-eval; the message says where, and what was expected."""


class Item(NamedTuple):
    """A document of a sample file; cluster: the name it shares with others, or None."""

    doc_id: int
    doc_hash: str
    prompt_hash: str | None
    target_hash: str | None
    cluster: str | None

    @property
    def key(self) -> tuple[str, int]:
        """What no two items of a file share; a data set may hold a document twice."""
        return self.doc_hash, self.doc_id


Metric = tuple[str, str]  # (name, filter)


@dataclass
class Samples:
    """A sample file.

    condition, leaks: what `ablation export` says of the model and its mask; leaks is `-` if it says
        nothing.
    values: {metric: {key of an item: value}}; a value is finite or NaN.
    no_numbers: metrics of which some value is no number, such as the texts that BLEU is made from.
    """

    path: Path
    condition: str = ""
    leaks: str = NO_LEAK
    items: dict[tuple[str, int], Item] = field(default_factory=dict)
    values: dict[Metric, dict[tuple[str, int], float]] = field(default_factory=dict)
    no_numbers: set[Metric] = field(default_factory=set)


def task_and_date(name: str) -> tuple[str, str] | None:
    """The task and date in the name of a sample file, `samples_TASK_DATE.jsonl`, or None."""
    found = re.fullmatch(r"samples_(.+)_([^_]+)\.jsonl", name)
    return (found[1], found[2]) if found else None


def sample_files(folder: Path) -> dict[str, Path]:
    """{task: its newest sample file} in a folder of lm-eval's output. Raises InvalidSamples."""
    found: dict[str, tuple[str, Path]] = {}
    for file in sorted(folder.rglob("samples_*.jsonl")):
        if named := task_and_date(file.name):
            task, date = named
            if task in found and found[task][1].parent != file.parent:
                raise InvalidSamples(
                    f"{folder} holds samples of {task} from several models, in "
                    f"{found[task][1].parent} and {file.parent}. Name one of these folders."
                )
            found[task] = max(found.get(task, ("", file)), (date, file))
    if not found:
        raise InvalidSamples(
            f"{folder} holds no samples_TASK_DATE.jsonl, which `lm_eval --log_samples` and "
            "`ablation export lm-eval` write"
        )
    return {task: file for task, (_, file) in sorted(found.items())}


def paired_files(a: Path, b: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """{task: the files of two arguments}, and the tasks that only one of two folders has.

    Both are files of one task, or folders. Raises InvalidSamples.
    """
    for path in (a, b):
        if not path.exists():
            raise InvalidSamples(f"{path} is not there; a sample file or a folder was expected")
    if a.is_dir() and b.is_dir():
        first, second = sample_files(a), sample_files(b)
        if both := {task: (first[task], second[task]) for task in first if task in second}:
            return both, sorted(set(first) ^ set(second))
        raise InvalidSamples(
            f"{a} and {b} have no task in common: {', '.join(first)} and {', '.join(second)}"
        )
    tasks = [named[0] if (named := task_and_date(path.name)) else None for path in (a, b)]
    if None not in tasks and tasks[0] != tasks[1]:
        raise InvalidSamples(
            f"{a} is of the task {tasks[0]} and {b} of {tasks[1]}: two files of one task were "
            "expected"
        )
    return {tasks[0] or tasks[1] or a.stem: (a, b)}, []


def read_samples(path: Path, cluster_field: str | None = None) -> Samples:
    """Read a sample file.

    cluster_field: the field of a line, or of its document, that names the item's cluster. By
    default it is one of CLUSTER_FIELDS, if the items have it. Raises InvalidSamples, OSError.
    """
    found = Samples(path)
    seen: set[tuple[tuple[str, int], str]] = set()
    for number, row in _lines(path):
        place = f"{path}, line {number}"
        item = _item(row, place, cluster_field)
        chosen = row.get("filter", UNFILTERED)
        if not isinstance(chosen, str):
            raise InvalidSamples(f"{place}: `filter` is {chosen!r}, a name was expected")
        if (item.key, chosen) in seen:
            raise InvalidSamples(
                f"{place}: document {item.doc_id} occurs twice under the filter {chosen}. lm-eval "
                "appends to a file that is there, so it may hold two runs. Keep one of them."
            )
        seen.add((item.key, chosen))
        first = found.items.setdefault(item.key, item)
        if first != item:
            raise InvalidSamples(
                f"{place}: document {item.doc_id} has other hashes or another cluster than under "
                "its first filter"
            )
        _add_values(found, row, item.key, chosen, place)
        said = _text(row, "condition", place) or "", _text(row, "leaks", place) or NO_LEAK
        if len(seen) > 1 and said != (found.condition, found.leaks):
            raise InvalidSamples(
                f"{place}: `condition` and `leaks` differ from those of other lines"
            )
        found.condition, found.leaks = said
    if not found.items:
        raise InvalidSamples(f"{path} is empty; a line for each item was expected")
    if cluster_field and all(item.cluster is None for item in found.items.values()):
        raise InvalidSamples(f"{path}: neither items nor their documents have `{cluster_field}`")
    return found


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, content) of each line that is not blank."""
    if path.is_dir():
        raise InvalidSamples(f"{path} is a folder; a file, or two folders, were expected")
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("no object")
                    yield number, row
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        hint = " (results_*.json has no items)" if path.suffix == ".json" else ""
        raise InvalidSamples(
            f"{path} is no sample file of lm-eval: a JSON object a line was expected{hint}"
        ) from None


def _item(row: Mapping[str, Any], place: str, cluster_field: str | None) -> Item:
    doc_id, doc_hash = row.get("doc_id"), row.get("doc_hash")
    if isinstance(doc_id, bool) or not isinstance(doc_id, int):
        raise InvalidSamples(f"{place}: `doc_id` is {doc_id!r}, the index of an item was expected")
    if not isinstance(doc_hash, str) or not doc_hash:
        raise InvalidSamples(
            f"{place}: `doc_hash` is {doc_hash!r}; lm-eval 0.4.2 and later write a hash, by which "
            "items are paired"
        )
    prompt, target = (_text(row, key, place) for key in ("prompt_hash", "target_hash"))
    return Item(doc_id, doc_hash, prompt, target, _cluster(row, cluster_field, place))


def _text(row: Mapping[str, Any], key: str, place: str) -> str | None:
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    raise InvalidSamples(f"{place}: `{key}` is {value!r}, a text was expected")


def _cluster(row: Mapping[str, Any], cluster_field: str | None, place: str) -> str | None:
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    for name in (cluster_field,) if cluster_field else CLUSTER_FIELDS:
        value = row.get(name, doc.get(name))
        if isinstance(value, str | int):
            return str(value)
        if value is not None:
            raise InvalidSamples(f"{place}: the cluster `{name}` is {value!r}, no name")
    return None


def _add_values(
    found: Samples, row: Mapping[str, Any], key: tuple[str, int], chosen: str, place: str
) -> None:
    """Add the value of each metric of a line."""
    names = row.get("metrics", [name for name in row if name not in NO_METRICS])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidSamples(f"{place}: `metrics` is no list of names")
    for name in names:
        value, metric = row.get(name), (name, chosen)
        if value is None:
            continue  # an item that has no value of a metric
        if not isinstance(value, int | float):  # truth values are numbers
            found.no_numbers.add(metric)
            continue
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            raise InvalidSamples(f"{place}: `{name}` is not finite; a number was expected")
        found.values.setdefault(metric, {})[key] = number
