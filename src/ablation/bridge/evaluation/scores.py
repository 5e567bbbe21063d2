"""Scores generated answers by exact match and F1. No torch.

The field `match` of a record names the rules by which its data set compares answers: those of
`ablation.bridge.data.answers` by default, or HotpotQA's own. Both score the generated answer after
the first `####`. A text without `####` is never right, whatever the gold answer is.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ablation.bridge.data.answers import INVALID, exact_match, extract_answer, marked_answer
from ablation.vocabulary.bridge import HOTPOTQA

VERDICTS = ("yes", "no", "noanswer")  # answers of HotpotQA that match as a whole or not at all


class Score(NamedTuple):
    """A generated answer in the form in which it is compared (None: invalid), and its scores."""

    answer: str | None
    correct: bool
    f1: float


def score_answer(text: str, record: Mapping) -> Score:
    """The scores of a generated `text` against the gold answer of its record.

    If HotpotQA's normalization leaves nothing of an answer, the answer is compared as written.
    """
    gold = record["answer"]
    if record.get("match") == HOTPOTQA:
        generated = marked_answer(text)
        if not generated:
            return Score(INVALID, False, 0.0)
        answer, expected = (hotpotqa_form(own) or own.lower() for own in (generated, gold))
        return Score(answer, answer == expected, hotpotqa_f1(generated, gold))
    extracted = extract_answer(text)
    return Score(extracted, exact_match(extracted, gold), word_f1(extracted or "", gold))


def hotpotqa_form(answer: str) -> str:
    """`answer` in lower case, without punctuation, articles and double spaces.

    `normalize_answer` of hotpot_evaluate_v1.py (github.com/hotpotqa/hotpot; Yang et al. 2018).
    """
    bare = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def hotpotqa_f1(predicted: str, answer: str) -> float:
    """`word_f1`, but zero if one answer is yes or no and the other one is not the same.

    `f1_score` of hotpot_evaluate_v1.py.
    """
    forms = hotpotqa_form(predicted), hotpotqa_form(answer)
    if forms[0] != forms[1] and any(form in VERDICTS for form in forms):
        return 0.0
    return word_f1(predicted, answer)


def word_f1(predicted: str, answer: str) -> float:
    """F1 of the words of two answers as multisets, without punctuation and articles.

    Rajpurkar et al. 2016 (arXiv:1606.05250).
    """
    predicted_words = Counter(hotpotqa_form(predicted).split())
    gold_words = Counter(hotpotqa_form(answer).split())
    common = (predicted_words & gold_words).total()
    if not common:
        return 0.0
    precision, recall = common / predicted_words.total(), common / gold_words.total()
    return 2 * precision * recall / (precision + recall)
