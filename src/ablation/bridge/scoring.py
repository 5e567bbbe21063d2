"""What a generation is worth: the answer it gives, exact match and F1. Pure: no torch.

A record says by `match` how its data set compares answers: as numbers and words of ours
(`ablation.bridge.prompts`), or by HotpotQA's own rules. Both read the *generated* answer after the
first `####`; what says none is never right, whatever the gold answer is.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ablation.bridge import prompts

HOTPOTQA = "hotpotqa"
VERDICTS = ("yes", "no", "noanswer")


class Score(NamedTuple):
    answer: str | None  # as it is compared; None: invalid
    correct: bool
    f1: float


def score(text: str, record: Mapping) -> Score:
    """Of a generated text, against the gold answer of its record.

    Answers of which HotpotQA's rules leave nothing are compared as they stand, not as equal.
    """
    answer = record["answer"]
    if record.get("match") == HOTPOTQA:
        said = prompts.marked(text)
        if not said:
            return Score(prompts.INVALID, False, 0.0)
        read, gold = (official(text) or text.lower() for text in (said, answer))
        return Score(read, read == gold, official_f1(said, answer))
    said = prompts.extracted(text)
    return Score(said, prompts.exact_match(said, answer), prompts.f1(said, answer))


def official(answer: str) -> str:
    """Lower case, without punctuation, articles and double spaces.

    `normalize_answer` of hotpot_evaluate_v1.py (github.com/hotpotqa/hotpot; Yang et al. 2018).
    """
    bare = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def official_f1(predicted: str, answer: str) -> float:
    """Overlap of words as multisets; nothing where one side is yes or no and the other is not.

    `f1_score` of hotpot_evaluate_v1.py.
    """
    one, other = official(predicted), official(answer)
    if one != other and (one in VERDICTS or other in VERDICTS):
        return 0.0
    mine, gold = Counter(one.split()), Counter(other.split())
    common = (mine & gold).total()
    if not common:
        return 0.0
    precision, recall = common / mine.total(), common / gold.total()
    return 2 * precision * recall / (precision + recall)
