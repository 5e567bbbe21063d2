"""Reads the five benchmarks from a local copy of their data sets, for both protocols: no hub.

A copy is a folder `<data_folder>/<data set id>` with the files of the hub's repository (parquet or
JSON lines, the split in their names). Only the split that is scored is read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from datasets import Dataset

from ablation.sources import BENCHMARKS, PUBLISHED_SPLIT, documents, split_files


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
    rows = enumerate(_read(benchmark, PUBLISHED_SPLIT, data_folder))
    items = ((row, PUBLISHED[benchmark](document)) for row, document in rows)
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
    name, configuration, _ = BENCHMARKS[benchmark]
    folder = Path(data_folder) / name
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = split_files(names, configuration, split)
    if not files:
        raise FileNotFoundError(
            f"{benchmark}: no .parquet or .jsonl file of the {split} split below "
            f"{folder / configuration}. Copy there what the hub holds of the data set {name}, "
            f"{configuration or 'whole'}."
        )
    return [document for file in files for document in documents(folder / file)]


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
