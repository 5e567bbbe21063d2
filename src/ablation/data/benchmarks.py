"""The data sets of the five benchmarks on the hub, and the files that hold a split of a data set.

Snakemake imports this module when it parses the rules, so it does not import torch or the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Benchmark(NamedTuple):
    """A data set on the hub, its configuration (a folder), and the split that lm_eval scores."""

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
PUBLISHED_SPLIT = "validation"  # the split of each benchmark that the published study scored
# The words in file names that mark a split, as in the library `datasets`.
SPLIT_NAMES = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}
DATA_SUFFIXES = (".parquet", ".jsonl", ".json")
SPLIT_SUFFIXES = (".parquet", ".jsonl")  # of files that hold one split


def split_files(names: Iterable[str], configuration: str, split: str) -> list[str]:
    """The files of a repository whose names mark them as a split of a configuration, sorted.

    Other words for the split count only if no file has its own name.
    """
    folder = f"{configuration}/" if configuration else ""
    within = [n for n in names if n.startswith(folder) and n.endswith(SPLIT_SUFFIXES)]
    for words in filter(None, (re.escape(split), SPLIT_NAMES.get(split))):
        wanted = re.compile(rf"(^|[/_.-])({words})[/_.-]")
        if found := [n for n in within if wanted.search(n[len(folder) :])]:
            return sorted(found)
    return []


def training_files(names: Iterable[str]) -> list[str]:
    """The files of the training split of a data set, or the only data file of the data set.

    Raises ValueError, which lists the files, if there are several and no name marks the split.
    """
    ignored = ("dataset_info", ".")
    names = [n for n in names if n.endswith(DATA_SUFFIXES) and not n.startswith(ignored)]
    found = split_files(names, "", "train") or names
    if not found or found is names and len(names) > 1:
        raise ValueError(
            "one data file, or files with `train` in their names, are needed; "
            f"found: {', '.join(sorted(names)) or 'none'} ({', '.join(DATA_SUFFIXES)})"
        )
    return found


def read_documents(file: str | Path) -> list[dict]:
    """The records of a .parquet file, a .jsonl file, or a .json file with one list of records."""
    file = Path(file)
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file).to_pylist()
    text = file.read_text("utf-8")
    if file.suffix == ".json":
        return json.loads(text)
    # `splitlines` would also break lines at other characters, which texts in JSON may contain.
    return [json.loads(line) for line in text.split("\n") if line]


# The number of documents in each split of the benchmarks.
DOCUMENT_COUNTS = {
    ("hellaswag", "validation"): 10_042,
    ("piqa", "validation"): 1_838,
    ("arc_easy", "validation"): 570,
    ("arc_easy", "test"): 2_376,
    ("arc_challenge", "validation"): 299,
    ("arc_challenge", "test"): 1_172,
    ("winogrande", "validation"): 1_267,
}
