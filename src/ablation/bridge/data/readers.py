"""Reads the questions of public data sets: GSM8K, and HotpotQA with its contexts. No torch.

A record is {question, answer}. It has `solution` if the data set explains its answers, `match` if
the data set has its own rules for comparing answers, and `key`, which is equal for copies of one
question. No question is cut, and no question is in two splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ablation.bridge.data.answers import MARK
from ablation.config.bridge_blocks import DataSet
from ablation.data import hub
from ablation.data.benchmarks import read_documents, split_files
from ablation.data.synthetic import question_documents
from ablation.vocabulary.bridge import GSM8K, HOTPOTQA, HOTPOTQA_QUERY_AGNOSTIC, SPLITS

GENERATED = "generated"  # the value of `data:` that makes up texts, for a rehearsal
CALCULATOR = re.compile(r"<<[^<>]*>>")  # annotations for a calculator, which our models do not use

NOTICE = """\
# {study}: a rehearsal

The models of this study have random weights, or its questions are made-up words at the lengths of
real ones. **The accuracies, losses and claims in this folder mean nothing.** What is real: that
every stage runs, how long it takes (`run.json`) and what memory it needs.
"""


class Format(NamedTuple):
    """The names of a data set's configuration and splits, and the reader of its documents."""

    configuration: str
    train: str
    test: str
    read_document: Callable[[Mapping], dict]


def read_gsm8k(document: Mapping) -> dict:
    """The record of a document {question, answer}, whose answer ends with `#### 18`.

    Raises ValueError if no number follows the mark.
    """
    solution, mark, answer = document["answer"].rpartition(MARK)
    answer = answer.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", answer):
        raise ValueError(f"no number after `####`: {document['answer'][-60:]!r}")
    question = document["question"].strip()
    steps = CALCULATOR.sub("", solution).strip()
    return {
        "question": question,
        "answer": answer,
        "solution": steps,
        "key": question_key(question),
    }


def read_hotpotqa(document: Mapping, before: bool = False) -> dict:
    """The record of a question of the distractor setting, with all its paragraphs.

    With `before` the paragraphs are the context, which the source reads before the question.
    Documents of the hub and of the authors' own file are accepted. The supporting facts are not
    read, because they reveal which paragraphs matter. Raises ValueError for an incomplete document.
    """
    context = document["context"]
    if isinstance(context, Mapping):
        context = zip(context["title"], context["sentences"], strict=True)
    paragraphs = [
        f"{title}: {' '.join(s.strip() for s in sentences)}" for title, sentences in context
    ]
    asked, answer = document["question"].strip(), document["answer"].strip()
    if not asked or not answer or not paragraphs:
        raise ValueError(f"question, answer and context were expected: {str(document)[:60]}")
    context, question = "\n".join(paragraphs), f"Question: {asked}"
    own = {"answer": answer, "match": HOTPOTQA, "key": question_key(asked)}
    if before:
        return {"context": context, "question": question, **own}
    return {"question": f"{context}\n{question}", **own}


FORMATS = {
    GSM8K: Format("main", "train", "test", read_gsm8k),
    # The distractor setting has no public test split, so its validation split is the test split.
    HOTPOTQA: Format("distractor", "train", "validation", read_hotpotqa),
    HOTPOTQA_QUERY_AGNOSTIC: Format(
        "distractor", "train", "validation", partial(read_hotpotqa, before=True)
    ),
}


def question_key(question: str) -> str:
    """The words of a question in lower case, equal for all copies of one question."""
    return " ".join(re.findall(r"\w+", question.lower()))


def read_data_set(
    regime: str, config: DataSet, pin: str | None = None
) -> tuple[dict[str, list[dict]], dict[str, dict[str, int]]]:
    """({split: records}, {split: how many documents were read, left out and chosen}) of a regime.

    `config.data` names a data set of the hub, which is read at the commit `pin`, or a folder with
    its files, or it is `generated`. Raises FileNotFoundError if a folder lacks a split and
    ValueError if no question is left for a split.
    """
    form = FORMATS[regime]
    found: dict[str, list[dict]] = {}
    if config.data == GENERATED:
        for split, count in {"train": config.train + config.dev, "test": config.test}.items():
            found[split] = list(question_documents(regime, split, count, config.seed))
    elif pin:
        parts = [(form.configuration, split) for split in (form.train, form.test)]
        with TemporaryDirectory() as home:
            for split, part in zip(("train", "test"), parts, strict=True):
                files = hub.copy_splits(Path(home) / split, config.data, pin, [part])
                found[split] = [document for file in files for document in read_documents(file)]
    else:
        found["train"] = local_documents(config.data, form.configuration, form.train)
        found["test"] = local_documents(config.data, form.configuration, form.test)
    records = {s: [form.read_document(document) for document in part] for s, part in found.items()}
    return choose_splits(records["train"], records["test"], config)


def local_documents(folder: str | Path, configuration: str, split: str) -> list[dict]:
    """The documents of a split, from the files below `folder` whose names contain the split.

    Raises FileNotFoundError if there is no such file.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))
    files = split_files(names, configuration, split) or split_files(names, "", split)
    if not files:
        raise FileNotFoundError(
            f"{folder}: no .jsonl or .parquet file of the {split} split; there are "
            f"{', '.join(names) or 'no files'}"
        )
    return [document for name in files for document in read_documents(Path(folder) / name)]


def choose_splits(
    train: Sequence[Mapping], test: Sequence[Mapping], config: DataSet
) -> tuple[dict[str, list[dict]], dict[str, dict[str, int]]]:
    """Splits that share no question, with at most `train`, `dev` and `test` questions each.

    Dev questions are drawn from the training questions. A training question that is also among
    all test questions is left out, and so is every further copy of a question. Raises ValueError
    if no question is left for a split.
    """
    test_keys = {record["key"] for record in test}
    test_pool, test_repeated = _without_copies(test, set())
    train_pool, train_repeated = _without_copies(train, test_keys)
    random = Random(f"questions {config.seed}")
    order = random.sample(range(len(train_pool)), len(train_pool))
    picked = {
        "test": sorted(random.sample(range(len(test_pool)), min(config.test, len(test_pool)))),
        "dev": sorted(order[: config.dev]),
        "train": sorted(order[config.dev :][: config.train]),
    }
    splits, facts = {}, {}
    for split in SPLITS:
        pool = test_pool if split == "test" else train_pool
        splits[split] = [{n: v for n, v in pool[i].items() if n != "key"} for i in picked[split]]
        read = len(test) if split == "test" else len(train)
        repeated = test_repeated if split == "test" else train_repeated
        facts[split] = {"read": read, "left_out_repeated": repeated, "chosen": len(splits[split])}
        if not splits[split]:
            raise ValueError(f"no question is left for {split}: {read} were read")
    return splits, facts


def _without_copies(records: Iterable[Mapping], keys: set[str]) -> tuple[list[Mapping], int]:
    """The first record of every question whose key is not in `keys`; how many were left out."""
    seen, kept, count = set(keys), [], 0
    for record in records:
        count += 1
        if record["key"] not in seen:
            seen.add(record["key"])
            kept.append(record)
    return kept, count - len(kept)
