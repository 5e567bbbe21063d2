"""Reads the five benchmarks from a local copy of their data sets, for both protocols: no hub.

A copy is a folder `<data_folder>/<data set id>` with the files of the hub's repository (parquet or
JSON lines, the split in their names). Only the split that is scored is read.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet
from datasets import Dataset

# The data set and its configuration; the published study scored the validation split of each.
SOURCES = {
    "hellaswag": ("Rowan/hellaswag", ""),
    "piqa": ("baber/piqa", ""),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge"),
    "winogrande": ("allenai/winogrande", "winogrande_xl"),
}


def local_split(
    benchmark: str, split: str, data_folder: str | None = None, **unused
) -> dict[str, Dataset]:
    """{split: its documents}, in memory, fields as on the hub.

    lm_eval calls this with a task's metadata and dataset_kwargs; `data_folder` comes from
    `TaskManager(metadata={"data_folder": ...})`.
    """
    return {split: Dataset.from_list(_read(benchmark, split, data_folder))}


def published_items(benchmark: str, data_folder: str | None = None, **unused) -> dict[str, Dataset]:
    """{"validation": items {row, prompt, choices, gold} as the published scorer made them}.

    `row` counts the split's documents, those without an item included.
    """
    documents = enumerate(_read(benchmark, "validation", data_folder))
    items = ((row, PUBLISHED[benchmark](document)) for row, document in documents)
    made = [
        {"row": row, "prompt": item[0], "choices": item[1], "gold": item[2]}
        for row, item in items
        if item is not None
    ]
    return {"validation": Dataset.from_list(made)}


def _read(benchmark: str, split: str, data_folder: str | None) -> list[dict]:
    if data_folder is None:
        raise ValueError(
            f"{benchmark}: no data folder. It is read from a local copy; give TaskManager "
            'metadata={"data_folder": "<folder of the copies>"}.'
        )
    name, configuration = SOURCES[benchmark]
    folder = Path(data_folder) / name / configuration
    wanted = re.compile(rf"(^|[/_.-]){split}[/_.-]")
    files = [
        p
        for p in sorted(folder.rglob("*"))
        if p.suffix in {".parquet", ".jsonl"} and wanted.search(p.relative_to(folder).as_posix())
    ]
    if not files:
        raise FileNotFoundError(
            f"{benchmark}: no .parquet or .jsonl file of the {split} split below {folder}. Copy "
            f"there what the hub holds of the data set {name}, {configuration or 'whole'}."
        )
    return [document for file in files for document in _documents(file)]


def _documents(file: Path) -> list[dict]:
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    # Not splitlines: texts hold characters at which it breaks, new lines stand escaped in JSON.
    return [json.loads(line) for line in file.read_text().split("\n") if line]


# ---- the published prompts: (prompt, choices, index of the right one), or None for no item -------

Item = tuple[str, list[str], int]


def _words(text: str) -> str:
    """`text` with one space between words and none around them."""
    return " ".join(text.split())


def _hellaswag(document: Mapping) -> Item:
    # Markup as [header] stays, and ctx_b keeps its small letter: both unlike lm_eval's task.
    prompt = _words(f"{document['activity_label']}: {document['ctx_a']} {document['ctx_b']}")
    return prompt, [_words(ending) for ending in document["endings"]], int(document["label"])


def _piqa(document: Mapping) -> Item:
    choices = [_words(document["sol1"]), _words(document["sol2"])]
    return f"{_words(document['goal'])}\nAnswer:", choices, int(document["label"])


def _arc(document: Mapping) -> Item | None:
    labels, texts = list(document["choices"]["label"]), document["choices"]["text"]
    if document["answerKey"] not in labels:
        return None
    prompt = f"{_words(document['question'])}\nAnswer:"
    return prompt, [_words(text) for text in texts], labels.index(document["answerKey"])


def _winogrande(document: Mapping) -> Item | None:
    before, blank, rest = document["sentence"].partition("_")
    if not blank:
        return None
    choices = [document["option1"] + rest, document["option2"] + rest]
    return before, choices, int(document["answer"]) - 1  # white space stays as it is


PUBLISHED: dict[str, Callable[[Mapping], Item | None]] = {
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "winogrande": _winogrande,
}
