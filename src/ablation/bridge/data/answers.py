"""Reads the answer out of a generated text and compares it with the gold answer. No torch.

The answer of a text is what follows its first `####` on the same line. A text without `####` is
invalid and never right; in particular, the last number of a text is not taken for its answer.
"""

from __future__ import annotations

import re

MARK = "####"
STOPS = ("\nProblem:", "\nQ:")  # with one of these a model begins a new question of its own
INVALID = None


def cut_at_stop(text: str) -> str:
    """`text` up to the first stop string, without the questions that a model goes on to write."""
    ends = [position for stop in STOPS if (position := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def marked_answer(text: str) -> str:
    """The line after the first `####`, as it was written; an empty string if there is no mark."""
    _, mark, rest = text.partition(MARK)
    return rest.strip().partition("\n")[0].strip() if mark else ""


def extract_answer(text: str) -> str | None:
    """The normalized answer after the first `####`; None (invalid) if there is none."""
    return normalize(marked_answer(text)) or INVALID


def normalize(answer: str) -> str:
    """A number in one form (`1,234.0` and `$1234.` are `1234`); other answers in lower case with
    single spaces."""
    plain = answer.strip().rstrip(".").replace(",", "").replace("$", "")
    number = re.fullmatch(r"([-+]?)0*(\d*)(?:\.(\d*?)0*)?", plain, re.ASCII)
    if not number or not re.search(r"\d", plain):
        return " ".join(answer.lower().split())
    sign, whole, part = number.groups(default="")
    written = f"{whole or 0}.{part}".rstrip(".")
    return f"-{written}" if sign == "-" and written != "0" else written


def normalize_gold(answer: str) -> str:
    """The gold answer in the form of `extract_answer`. Raises ValueError if nothing is left."""
    value = normalize(answer)
    if not value:
        raise ValueError(f"the gold answer {answer!r} is empty, so no prediction can match it")
    return value


def exact_match(predicted: str | None, answer: str) -> bool:
    """Whether a predicted answer, as `extract_answer` gives it, equals the gold answer."""
    return predicted is not None and predicted == normalize_gold(answer)
