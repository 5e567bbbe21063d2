"""Texts without meaning at the lengths of real ones: what a rehearsal reads in place of hub data.

Words are made up, drawn as words are (few of them often, most of them seldom), and counted out as
in the five benchmarks and in Alpaca records. Whatever is asked, the answer is drawn by lot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random

from ablation.provenance import write_json_lines
from ablation.sources import BENCHMARKS

WORDS = 6000  # different ones
# Words: mean, spread (standard deviation of their logarithm), most. Means are roughly those of the
# data sets; Alpaca's follow from the size of yahma/alpaca-cleaned, 760 characters a record.
LENGTHS = {
    "context": (45, 0.6, 150),  # HellaSwag
    "ending": (20, 0.5, 60),
    "goal": (8, 0.5, 40),  # PIQA
    "solution": (21, 0.7, 150),
    "question": (20, 0.6, 120),  # ARC
    "choice": (4, 0.6, 25),
    "half": (10, 0.3, 20),  # WinoGrande, before and after the blank
    "instruction": (11, 0.4, 60),  # Alpaca
    "input": (22, 0.9, 300),
    "output": (105, 0.8, 700),
    "problem": (70, 0.4, 190),  # GSM8K: 60 to 250 tokens
    "steps": (80, 0.4, 200),
    "paragraph": (108, 0.3, 180),  # HotpotQA: ten of them are 1,200 to 1,800 tokens
}
INPUT_SHARE = 0.38  # of Alpaca records
# Documents of the real splits.
COUNTS = {
    ("hellaswag", "validation"): 10_042,
    ("piqa", "validation"): 1_838,
    ("arc_easy", "validation"): 570,
    ("arc_easy", "test"): 2_376,
    ("arc_challenge", "validation"): 299,
    ("arc_challenge", "test"): 1_172,
    ("winogrande", "validation"): 1_267,
}


def write_copies(
    folder: str | Path, wanted: Mapping[str, Iterable[Sequence[str]]], seed: int
) -> list[Path]:
    """Generated copies of data sets below `folder`, as the tasks read them; their files.

    wanted: {data set of the hub: (configuration, split) pairs}, as `sources.data_sets` gives it.
    """
    names = {benchmark[:2]: name for name, benchmark in BENCHMARKS.items()}
    files = []
    for data, parts in wanted.items():
        for configuration, split in parts:
            files.append(Path(folder) / data / configuration / f"{split}.jsonl")
            write_json_lines(
                files[-1], benchmark_documents(names[data, configuration], split, seed)
            )
    return files


def benchmark_documents(name: str, split: str, seed: int) -> Iterator[dict]:
    """As many documents as the split of the benchmark has, with the fields that tasks read."""
    random = Random(f"{name} {split} {seed}")
    make = {"arc_easy": _arc, "arc_challenge": _arc, "hellaswag": _hellaswag, "piqa": _piqa}
    for _ in range(COUNTS[name, split]):
        yield make.get(name, _winogrande)(random)


def alpaca_records(count: int, seed: int) -> Iterator[dict]:
    """`count` records {instruction, input, output}."""
    random = Random(f"alpaca {seed}")
    for _ in range(count):
        given = _text(random, "input") if random.random() < INPUT_SHARE else ""
        record = {"instruction": _text(random, "instruction"), "input": given}
        yield record | {"output": _text(random, "output")}


def question_documents(name: str, split: str, count: int, seed: int) -> Iterator[dict]:
    """`count` documents of GSM8K or HotpotQA (distractor), with the fields that readers read."""
    random = Random(f"{name} {split} {seed}")
    for _ in range(count):
        if name == "gsm8k":
            answer = f"{_text(random, 'steps')}\n#### {random.randrange(1000)}"
            yield {"question": _text(random, "problem"), "answer": answer}
        else:
            told = [_text(random, "paragraph").split(". ") for _ in range(10)]
            titles = [_text(random, "choice").rstrip(".") for _ in told]
            asked = {"question": _text(random, "question"), "answer": _text(random, "choice")}
            yield {**asked, "context": {"title": titles, "sentences": told}}


def _hellaswag(random: Random) -> dict:
    context = _text(random, "context")
    return {
        "activity_label": _text(random, "choice"),
        "ctx_a": context,
        "ctx_b": "",
        "ctx": context,
        "endings": [_text(random, "ending") for _ in range(4)],
        "label": str(random.randrange(4)),
    }


def _piqa(random: Random) -> dict:
    solutions = {"sol1": _text(random, "solution"), "sol2": _text(random, "solution")}
    return {"goal": _text(random, "goal"), **solutions, "label": random.randrange(2)}


def _arc(random: Random) -> dict:
    choices = {"text": [_text(random, "choice") for _ in range(4)], "label": list("ABCD")}
    return {
        "question": _text(random, "question"),
        "choices": choices,
        "answerKey": random.choice("ABCD"),
    }


def _winogrande(random: Random) -> dict:
    first, second = (word.capitalize() for word in random.sample(_words(), 2))
    before, after = (_text(random, "half").rstrip(".") for _ in range(2))
    return {
        "sentence": f"{before} {first} and {second}, because _ {after.lower()}.",
        "option1": first,
        "option2": second,
        "answer": random.choice("12"),
    }


def _text(random: Random, kind: str) -> str:
    """Sentences of a dozen words or so, as many words as texts of this kind have."""
    mean, spread, most = LENGTHS[kind]
    drawn = random.lognormvariate(math.log(mean) - spread**2 / 2, spread)
    words = random.choices(_words(), cum_weights=_often(), k=min(most, max(1, round(drawn))))
    sentences = []
    while words:
        size = random.randint(6, 18)
        sentences.append(" ".join(words[:size]).capitalize() + ".")
        words = words[size:]
    return " ".join(sentences)


@cache
def _words() -> list[str]:
    """Pronounceable words, all different, the short ones first."""
    random = Random("words")
    starts, vowels, ends = "b br d f g k kl l m n p pr r s st t tr v".split(), "aeiou", " l m n r s"
    made: dict[str, None] = {}
    while len(made) < WORDS:
        syllables = 1 + min(len(made) // 300, 2) + random.randrange(2)
        word = "".join(random.choice(starts) + random.choice(vowels) for _ in range(syllables))
        made[word + random.choice(ends).strip()] = None
    return list(made)


@cache
def _often() -> list[float]:
    return list(accumulate(1 / (rank + 3) for rank in range(WORDS)))  # Zipf's law
