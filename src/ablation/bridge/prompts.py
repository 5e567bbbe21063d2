"""The words around a question, the same for every arm, and how an answer is read back. No torch.

Every arm ends with the same suffix, and none holds a gold answer: a prompt is made from a question
alone. Answers are strict: what follows the first `####`. Nothing else counts, least of all the
last number of a text.
"""

from __future__ import annotations

import re
import string
from collections import Counter

REGIMES = ("compression", "enrichment")  # of the micro bridge's own world
DATA_SETS = ("gsm8k", "hotpotqa")  # regimes whose questions are read (ablation.bridge.readers)
SPLITS = ("train", "dev", "test")
MODES = ("soft_only", "soft_plus_text", "adapter")  # what the target reads beside soft tokens
SOURCE_FREE = "source_free"  # the recipe, and the translator, of the control that reads no source
ARMS = ("source_alone", "target_alone", "latent", "token_budget", "cascade")  # whose cost is told
CONTROLS = ("shuffled_source", "zero_soft_tokens", "mean_soft_tokens")  # and the recipe above
QUANTIZED = {"int8": 8, "int4": 4}  # bits of a number of a soft token
MARK = "####"
SUFFIX = "\nAnswer:"
INSTRUCTIONS = {  # models of the hub know no `####`; every arm is told alike
    "gsm8k": "\nReason step by step. End with '#### ' and the answer as one number.",
    "hotpotqa": "\nEnd with '#### ' and the answer in a few words.",
}
STOPS = ("\nProblem:", "\nQ:")  # a model that runs on asks itself a new question
INVALID = None


def suffix(regime: str) -> str:
    """What every prompt of a regime ends with, whoever reads it."""
    return INSTRUCTIONS.get(regime, "") + SUFFIX


def problem(question: str) -> str:
    """What stands before the suffix: the question's text, for source and target alike."""
    return f"Problem: {question}"


def prompt(question: str) -> str:
    """What a model that reads text is asked."""
    return problem(question) + SUFFIX


def drafted_head(question: str, said: str) -> str:
    """What stands before the suffix in a cascade: the question, and the source's own words.

    That is its marked answer, or all that it `said` where it marked none.
    """
    return f"{problem(question)}\nDraft: {marked(said) or said.strip()}"


def worked(answer: str, solution: str = "") -> str:
    """The text that training supervises after the suffix; EOS follows as a token."""
    return f" {solution}\n{MARK} {answer}" if solution else f" {MARK} {answer}"


def cut(text: str) -> str:
    """A generation without the questions that a model goes on to ask itself."""
    ends = [at for stop in STOPS if (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def marked(text: str) -> str:
    """The line after the first `####`, as it was written; nothing where there is none."""
    _, mark, rest = text.partition(MARK)
    return rest.strip().partition("\n")[0].strip() if mark else ""


def extracted(text: str) -> str | None:
    """The answer after the first `####`, normalised; None (invalid) where there is none.

    One number is written as a number (`1,234.0` and `$1234.` are `1234`), other answers in lower
    case with single spaces.
    """
    return normalised(marked(text)) or INVALID


def normalised(answer: str) -> str:
    plain = answer.strip().rstrip(".").replace(",", "").replace("$", "")
    number = re.fullmatch(r"([-+]?)0*(\d*)(?:\.(\d*?)0*)?", plain, re.ASCII)
    if not number or not re.search(r"\d", plain):
        return " ".join(answer.lower().split())
    sign, whole, part = number.groups(default="")
    written = f"{whole or 0}.{part}".rstrip(".")
    return f"-{written}" if sign == "-" and written != "0" else written


def gold(answer: str) -> str:
    """A gold answer as `extracted` gives it. Raises ValueError for one that says nothing."""
    value = normalised(answer)
    if not value:
        raise ValueError(f"the gold answer {answer!r} is empty: no prediction can be compared")
    return value


def exact_match(predicted: str | None, answer: str) -> bool:
    """Whether an extracted answer is the gold one; an invalid one never is."""
    return predicted is not None and predicted == gold(answer)


def f1(predicted: str | None, answer: str) -> float:
    """Overlap of words as multisets, punctuation and articles left out (Rajpurkar et al. 2016)."""
    one, other = Counter(_words(predicted or "")), Counter(_words(answer))
    common = sum((one & other).values())
    if not common:
        return 0.0
    precision, recall = common / one.total(), common / other.total()
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()
