"""Meaningless texts with the lengths of real ones, which a rehearsal reads in place of hub data.

Words are invented and drawn by Zipf's law, so that few of them are frequent and most are rare. The
number of words in a text follows the five benchmarks, Alpaca records, GSM8K and HotpotQA. The right
answer to a question is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random

from ablation.data.benchmarks import BENCHMARKS, DOCUMENT_COUNTS
from ablation.provenance.files import write_json_lines
from ablation.vocabulary.bridge import GSM8K

VOCABULARY_SIZE = 6000  # the number of different words
# {kind of text: (mean, standard deviation of the logarithm, maximum) of its number of words}. The
# means are roughly those of the data sets. Those of Alpaca follow from the size of
# yahma/alpaca-cleaned, which has 760 characters a record.
LENGTHS = {
    "context": (45, 0.6, 150),  # HellaSwag
    "ending": (20, 0.5, 60),
    "goal": (8, 0.5, 40),  # PIQA
    "solution": (21, 0.7, 150),
    "question": (20, 0.6, 120),  # ARC
    "choice": (4, 0.6, 25),
    "half": (10, 0.3, 20),  # WinoGrande, each part before or after the blank
    "instruction": (11, 0.4, 60),  # Alpaca
    "input": (22, 0.9, 300),
    "output": (105, 0.8, 700),
    "problem": (70, 0.4, 190),  # GSM8K, 60 to 250 tokens
    "steps": (80, 0.4, 200),
    "paragraph": (108, 0.3, 180),  # HotpotQA, 1,200 to 1,800 tokens in the ten of a question
}
OTHER_SPLIT = 1000  # documents of a split that is not scored
INPUT_SHARE = 0.38  # the share of Alpaca records that have an `input`


def write_synthetic_data(
    folder: str | Path, wanted: Mapping[str, Iterable[Sequence[str]]], seed: int
) -> list[Path]:
    """Write synthetic data in place of hub data sets below `folder`, in the form that tasks read.

    wanted: {data set on the hub: (configuration, split) pairs}, from `task_data.data_sets`.
    Returns the files.
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
    """As many documents as the split of the benchmark has, with the fields that its task reads."""
    random = Random(f"{name} {split} {seed}")
    make = {"arc_easy": _arc, "arc_challenge": _arc, "hellaswag": _hellaswag, "piqa": _piqa}
    for _ in range(DOCUMENT_COUNTS.get((name, split), OTHER_SPLIT)):
        yield make.get(name, _winogrande)(random)


def alpaca_records(count: int, seed: int) -> Iterator[dict]:
    """`count` records {instruction, input, output}."""
    random = Random(f"alpaca {seed}")
    for _ in range(count):
        given = _text(random, "input") if random.random() < INPUT_SHARE else ""
        record = {"instruction": _text(random, "instruction"), "input": given}
        yield record | {"output": _text(random, "output")}


def question_documents(name: str, split: str, count: int, seed: int) -> Iterator[dict]:
    """`count` documents of GSM8K or HotpotQA (distractor), with the fields that readers use."""
    random = Random(f"{name} {split} {seed}")
    for _ in range(count):
        if name == GSM8K:
            answer = f"{_text(random, 'steps')}\n#### {random.randrange(1000)}"
            yield {"question": _text(random, "problem"), "answer": answer}
        else:
            paragraphs = [_text(random, "paragraph").split(". ") for _ in range(10)]
            titles = [_text(random, "choice").rstrip(".") for _ in paragraphs]
            question = {"question": _text(random, "question"), "answer": _text(random, "choice")}
            yield {**question, "context": {"title": titles, "sentences": paragraphs}}


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
    """A text of a kind in `LENGTHS`, in sentences of 6 to 18 words."""
    mean, deviation, maximum = LENGTHS[kind]
    drawn = random.lognormvariate(math.log(mean) - deviation**2 / 2, deviation)
    words = random.choices(
        _words(), cum_weights=_cumulative_weights(), k=min(maximum, max(1, round(drawn)))
    )
    sentences = []
    while words:
        size = random.randint(6, 18)
        sentences.append(" ".join(words[:size]).capitalize() + ".")
        words = words[size:]
    return " ".join(sentences)


@cache
def _words() -> list[str]:
    """Invented words that can be pronounced, all different, the short ones first."""
    random = Random("words")
    starts, vowels, ends = "b br d f g k kl l m n p pr r s st t tr v".split(), "aeiou", " l m n r s"
    made: dict[str, None] = {}
    while len(made) < VOCABULARY_SIZE:
        syllables = 1 + min(len(made) // 300, 2) + random.randrange(2)
        word = "".join(random.choice(starts) + random.choice(vowels) for _ in range(syllables))
        made[word + random.choice(ends).strip()] = None
    return list(made)


@cache
def _cumulative_weights() -> list[float]:
    """The cumulative frequencies of the words by Zipf's law."""
    return list(accumulate(1 / (rank + 3) for rank in range(VOCABULARY_SIZE)))
