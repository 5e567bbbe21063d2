"""Reads the five benchmarks from local copies of their data sets, for the published protocol.

A copy is a folder `<data_folder>/<data set id>` with the files of the hub's repository (parquet or
JSON lines, with the split in their names). Only the scored split is read, and the hub never is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from datasets import Dataset

from ablation.data.benchmarks import BENCHMARKS, PUBLISHED_SPLIT, read_documents
from ablation.data.local_files import split_of


def published_items(
    benchmark: str, data_folder: str | None = None, **unused: object
) -> dict[str, Dataset]:
    """{"validation": the items {row, prompt, choices, gold} of the published scorer}.

    `row` is the index of the document in its split, where some documents give no item. lm_eval
    calls this function with a task's metadata and dataset_kwargs; `data_folder` comes from
    `TaskManager(metadata={"data_folder": ...})`.
    """
    rows = enumerate(_read(benchmark, data_folder))
    items = ((row, PUBLISHED[benchmark](document)) for row, document in rows)
    made = [
        {"row": row, "prompt": item[0], "choices": item[1], "gold": item[2]}
        for row, item in items
        if item is not None
    ]
    return {"validation": Dataset.from_list(made)}


def _read(benchmark: str, data_folder: str | None) -> list[dict]:
    if data_folder is None:
        raise ValueError(
            f"{benchmark}: no data folder was given, but it is read from a local copy. Give "
            "TaskManager "
            'metadata={"data_folder": "<folder of the copies>"}.'
        )
    name, configuration, _ = BENCHMARKS[benchmark]
    files = split_of(data_folder, name, configuration, PUBLISHED_SPLIT)
    if not files:
        raise FileNotFoundError(
            f"{benchmark}: no .parquet or .jsonl file of the {PUBLISHED_SPLIT} split below "
            f"{Path(data_folder) / name / configuration}. Copy the files of the hub's data set "
            f"{name} there (configuration: {configuration or 'the whole repository'})."
        )
    return [document for file in files.values() for document in read_documents(file)]


# ---- the published items: (prompt, choices, index of the right choice), or None for no item ------

Item = tuple[str, list[str], int]


def _words(text: str) -> str:
    """`text` with one space between words and none around them."""
    return " ".join(text.split())


def _hellaswag(document: Mapping) -> Item:
    # Markup such as [header] and the small first letter of ctx_b stay, unlike in lm_eval's task.
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
    return before, choices, int(document["answer"]) - 1  # white space is not changed


PUBLISHED: dict[str, Callable[[Mapping], Item | None]] = {
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "winogrande": _winogrande,
}
