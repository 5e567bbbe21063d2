"""The data sets that tasks read: which splits, of which data set of the hub.

Stage 0 brings these splits, from the hub at a pinned commit or from a folder of the user, so that a
scoring job reads only files whose hashes are known. A task file says what a task reads; for
lm-eval's own tasks a generated list does. Snakemake imports this module when it parses the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ablation.data.benchmarks import BENCHMARKS, PUBLISHED_SPLIT
from ablation.data.local_files import HUB_NAME
from ablation.data.shots import Shots, shots_of
from ablation.data.task_files import lm_eval_sources, project_task_files
from ablation.vocabulary.protocols import PUBLISHED_PREFIX

PLAIN_SPLIT = re.compile(r"[\w.-]+")  # no part of a split, such as `train[:100]`
Parts = dict[str, list[tuple[str, str]]]  # {data set: its (configuration, split) pairs}


class Source(NamedTuple):
    """What a task reads: the split that is scored, and the one with examples for prompts.

    examples: empty if the task file itself holds the examples.
    shots: the number of examples in each prompt by the task file; None if it gives none.
    """

    data: str
    configuration: str
    scored: str
    examples: str
    shots: int | None

    def __str__(self) -> str:
        return "|".join("" if value is None else str(value) for value in self)

    @classmethod
    def parse(cls, text: str) -> Source:
        """The source that `str` has written."""
        data, configuration, scored, examples, shots = text.split("|")
        return cls(data, configuration, scored, examples, int(shots) if shots else None)


def source_of(task: Mapping[str, Any]) -> Source | None:
    """The source of a task with this configuration; None if it is no plain data set of the hub.

    Such a task reads local files (`data_files`), or makes its documents itself (`custom_dataset`).
    """
    data, given = task.get("dataset_path"), task.get("dataset_kwargs") or {}
    plain = isinstance(data, str) and HUB_NAME.fullmatch(data) and not Path(data).is_dir()
    if not plain or task.get("custom_dataset") or set(given) - {"trust_remote_code"}:
        return None
    splits = [task.get(f"{name}_split") for name in ("training", "validation", "test")]
    training, validation, test = splits
    own = task.get("fewshot_config") or {}
    examples = own.get("split") or task.get("fewshot_split")
    if not examples and not own.get("samples"):
        examples = training or validation or test
    scored = test or validation
    if not scored or not all(PLAIN_SPLIT.fullmatch(split) for split in (scored, examples or "x")):
        return None
    name = str(task.get("dataset_name") or "")
    return Source(str(data), name, scored, examples or "", task.get("num_fewshot"))


def sources(folder: Path, task: str) -> Iterator[Source]:
    """The sources of a task of this project, or else of lm-eval's task, group or tag."""
    own = [content for file, content in project_task_files(folder).items() if file.stem == task]
    if task.startswith(PUBLISHED_PREFIX):
        benchmark = BENCHMARKS.get(task.removeprefix(PUBLISHED_PREFIX))
        if benchmark:
            yield Source(benchmark.data, benchmark.configuration, PUBLISHED_SPLIT, "", None)
    elif own:
        found = (source_of(content) for content in own if isinstance(content, dict))
        yield from filter(None, found)
    else:
        yield from map(Source.parse, lm_eval_sources(folder, task))


def data_sets(folder: Path, tasks: Iterable[str], asked: Shots = None) -> Parts:
    """{data set: its (configuration, split) pairs} that `tasks` read, sorted.

    asked: the number of examples in each prompt, see `shots_of`.
    """
    wanted: dict[str, set[tuple[str, str]]] = {}
    for task in tasks:
        for source in sources(folder, task):
            parts = wanted.setdefault(source.data, set())
            parts.add((source.configuration, source.scored))
            if source.examples and shots_of(task, source.shots, asked):
                parts.add((source.configuration, source.examples))
    return {data: sorted(wanted[data]) for data in sorted(wanted)}
