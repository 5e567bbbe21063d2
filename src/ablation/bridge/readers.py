"""Questions of public data sets: GSM8K, and HotpotQA with its contexts. No torch.

A record is {question, answer}, with `solution` where the data set explains its answers, `match`
where it has rules of its own for comparing them, and `key`, by which questions are told apart.
No question is cut, and none stands in two splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ablation import generated, hub
from ablation.bridge import prompts
from ablation.bridge.prompts import SPLITS
from ablation.bridge.scoring import HOTPOTQA
from ablation.sources import documents, split_files

GENERATED = "generated"  # in place of a data set: made-up words, for a rehearsal
CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's notes to a calculator that nobody has here

NOTICE = """\
# {study}: a rehearsal

The models of this study have random weights, or its questions are made-up words at the lengths of
real ones. **The accuracies, losses and claims in this folder mean nothing.** What is real: that
every stage runs, how long it takes (`run.json`) and what memory it needs.
"""


class DataSet(NamedTuple):
    """Where a data set keeps its splits, and how a document of it is read."""

    configuration: str
    train: str
    test: str
    read: Callable[[Mapping], dict]


def gsm8k(document: Mapping) -> dict:
    """{question, answer: steps, then `#### 18`} -> a record; ValueError where no answer is."""
    solution, mark, answer = document["answer"].rpartition(prompts.MARK)
    answer = answer.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", answer):
        raise ValueError(f"no number after `####`: {document['answer'][-60:]!r}")
    question = document["question"].strip()
    steps = CALCULATOR.sub("", solution).strip()
    return {"question": question, "answer": answer, "solution": steps, "key": key(question)}


def hotpotqa(document: Mapping) -> dict:
    """A question of the distractor setting with its paragraphs, as the hub or its authors have it.

    Of the supporting facts nothing is read: they say which paragraphs matter.
    """
    context = document["context"]
    if isinstance(context, Mapping):
        context = zip(context["title"], context["sentences"], strict=True)
    told = [f"{title}: {' '.join(s.strip() for s in sentences)}" for title, sentences in context]
    asked, answer = document["question"].strip(), document["answer"].strip()
    if not asked or not answer or not told:
        raise ValueError(f"question, answer and context were expected: {str(document)[:60]}")
    question = "\n".join([*told, f"Question: {asked}"])
    return {"question": question, "answer": answer, "match": HOTPOTQA, "key": key(asked)}


SETS = {
    "gsm8k": DataSet("main", "train", "test", gsm8k),
    # the distractor setting publishes no test split: its validation split is tested on
    "hotpotqa": DataSet("distractor", "train", "validation", hotpotqa),
}


def key(question: str) -> str:
    """What two copies of a question share: its words, in lower case."""
    return " ".join(re.findall(r"\w+", question.lower()))


def read_splits(regime: str, config: Mapping, pin: str | None = None) -> tuple[dict, dict]:
    """({split: records}, {split: what was read and left out}) of a regime's `data:` block.

    `data` is a data set of the hub, read at the commit `pin`, the folder of its files, or
    `generated`.
    """
    own, found = SETS[regime], {}
    if config["data"] == GENERATED:
        wanted = {"train": config["train"] + config["dev"], "test": config["test"]}
        for split, count in wanted.items():
            found[split] = list(generated.question_documents(regime, split, count, config["seed"]))
    elif pin:
        parts = [(own.configuration, split) for split in (own.train, own.test)]
        with TemporaryDirectory() as home:
            for split, part in zip(("train", "test"), parts, strict=True):
                files = hub.copy_splits(Path(home) / split, config["data"], pin, [part])
                found[split] = [document for file in files for document in documents(file)]
    else:
        found = {s: local_documents(config["data"], own, s) for s in ("train", "test")}
    records = {s: [own.read(document) for document in part] for s, part in found.items()}
    return chosen(records["train"], records["test"], config)


def local_documents(folder: str | Path, own: DataSet, split: str) -> list[dict]:
    """Those of a split, from the files below `folder` whose names say that they are of it."""
    names = sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))
    wanted = getattr(own, split)
    files = split_files(names, own.configuration, wanted) or split_files(names, "", wanted)
    if not files:
        raise FileNotFoundError(
            f"{folder}: no .jsonl or .parquet file of the {wanted} split; there are "
            f"{', '.join(names) or 'no files'}"
        )
    return [document for name in files for document in documents(Path(folder) / name)]


def chosen(
    train: Sequence[Mapping], test: Sequence[Mapping], config: Mapping
) -> tuple[dict[str, list[dict]], dict[str, dict[str, int]]]:
    """Splits of which no two share a question, at most `train`, `dev` and `test` questions each.

    Dev is drawn from the training questions. What test asks, in any of its questions, is learned
    by no translator; a question that stands twice is taken once.
    """
    asked = {record["key"] for record in test}
    own, twice = _once(test, set())
    learned, left_out = _once(train, asked)
    random = Random(f"questions {config['seed']}")
    order = random.sample(range(len(learned)), len(learned))
    picked = {
        "test": sorted(random.sample(range(len(own)), min(config["test"], len(own)))),
        "dev": sorted(order[: config["dev"]]),
        "train": sorted(order[config["dev"] :][: config["train"]]),
    }
    splits, facts = {}, {}
    for split in SPLITS:
        pool = own if split == "test" else learned
        splits[split] = [{n: v for n, v in pool[i].items() if n != "key"} for i in picked[split]]
        read, repeated = (len(test), twice) if split == "test" else (len(train), left_out)
        facts[split] = {"read": read, "left_out_repeated": repeated, "chosen": len(splits[split])}
        if not splits[split]:
            raise ValueError(f"no question is left for {split}: {read} were read")
    return splits, facts


def _once(records: Iterable[Mapping], known: set[str]) -> tuple[list[Mapping], int]:
    """Records whose question neither is `known` nor came before; how many were left out."""
    seen, kept, count = set(known), [], 0
    for record in records:
        count += 1
        if record["key"] not in seen:
            seen.add(record["key"])
            kept.append(record)
    return kept, count - len(kept)
