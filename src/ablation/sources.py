"""Where a study's items and finetuning data come from, and how their files are read.

No torch and no hub at import: rules are read with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ablation.names import PUBLISHED, protocol_of


class Benchmark(NamedTuple):
    """A data set of the hub, its configuration (a folder), and the split that lm_eval scores."""

    data: str
    configuration: str
    split: str


BENCHMARKS = {
    "hellaswag": Benchmark("Rowan/hellaswag", "", "validation"),
    "piqa": Benchmark("baber/piqa", "", "validation"),
    "arc_easy": Benchmark("allenai/ai2_arc", "ARC-Easy", "test"),
    "arc_challenge": Benchmark("allenai/ai2_arc", "ARC-Challenge", "test"),
    "winogrande": Benchmark("allenai/winogrande", "winogrande_xl", "validation"),
}
PUBLISHED_SPLIT = "validation"  # of every benchmark, in the published study
# A split's names in those of files, as the `datasets` library knows them.
SPLIT_NAMES = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}
DATA = (".parquet", ".jsonl", ".json")


def data_sets(tasks: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """{data set of the hub: the (configuration, split) of it that `tasks` read}, sorted."""
    wanted: dict[str, set[tuple[str, str]]] = {}
    for task in tasks:
        benchmark = BENCHMARKS.get(task.removeprefix(PUBLISHED))
        if benchmark:
            split = PUBLISHED_SPLIT if protocol_of(task) == "published" else benchmark.split
            wanted.setdefault(benchmark.data, set()).add((benchmark.configuration, split))
    return {data: sorted(wanted[data]) for data in sorted(wanted)}


def split_files(names: Iterable[str], configuration: str, split: str) -> list[str]:
    """Those of a repository's files that hold a split of a configuration: their names say it."""
    wanted = re.compile(rf"(^|[/_.-])({SPLIT_NAMES[split]})[/_.-]")
    folder = f"{configuration}/" if configuration else ""
    within = (n for n in names if n.startswith(folder) and n.endswith(DATA[:2]))
    return sorted(name for name in within if wanted.search(name[len(folder) :]))


def training_files(names: Iterable[str]) -> list[str]:
    """Those that hold a data set's training split, or all of a data set that is one file.

    Raises ValueError that lists the files when neither can be told.
    """
    names = [n for n in names if n.endswith(DATA) and not n.startswith(("dataset_info", "."))]
    found = split_files(names, "", "train") or names
    if not found or found is names and len(names) > 1:
        raise ValueError(
            "one data file, or files whose names say that they are the train split, are needed; "
            f"found: {', '.join(sorted(names)) or 'none'} ({', '.join(DATA)})"
        )
    return found


def documents(file: str | Path) -> list[dict]:
    """The records of a .parquet file, a .jsonl file, or a .json file that holds one list."""
    file = Path(file)
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file).to_pylist()
    text = file.read_text("utf-8")
    if file.suffix == ".json":
        return json.loads(text)
    # Not splitlines: texts hold characters at which it breaks, new lines stand escaped in JSON.
    return [json.loads(line) for line in text.split("\n") if line]
