"""The terms of a translator's loss.

Each function returns a term without its weight. `total` applies the weights once and refuses a term
that gives no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

TERMS = ("cross_entropy", "kl", "info_nce", "prompt_alignment", "flow")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy (nats) over the tokens of the answers.

    `logits` is [targets, vocabulary] and `targets` [targets].
    """
    return F.cross_entropy(logits.float(), targets)


def kl(logits: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
    """KL(teacher || student) in nats, the mean over the tokens of the answers.

    `teacher` [targets, n] are the log-probabilities of the teacher's n likeliest tokens `ids`. The
    teacher is the target that reads the question as text. All other tokens count as one token.
    """
    student = logits.float().log_softmax(-1)
    chosen = student.gather(1, ids)
    value = (teacher.exp() * (teacher - chosen)).sum(1)
    if ids.shape[1] < logits.shape[1]:
        p, q = _remaining(teacher), _remaining(chosen)
        value = value + p * (p.log() - q.log())
    return value.mean()


def _remaining(logprobs: Tensor) -> Tensor:
    return (1 - logprobs.exp().sum(1)).clamp_min(1e-6)


def info_nce(soft: Tensor, questions: Tensor, temperature: float) -> Tensor:
    """The contrast of mean soft tokens with the questions of the batch (van den Oord et al. 2018).

    `soft` is [rows, K, width], and `questions` [rows, width] are the mean embeddings of the rows'
    own questions. Raises ValueError if the questions cannot be told apart, because the loss would
    be a constant.
    """
    if len(soft) < 2:
        raise ValueError("one row cannot be contrasted with another: give a larger batch")
    anchors = F.normalize(soft.float().mean(1), dim=-1)
    positives = F.normalize(questions.float(), dim=-1)
    if (positives @ positives.T).fill_diagonal_(-1).max(1).values.min() > 0.9999:
        raise ValueError("the questions' embeddings are all the same, so a contrast has no effect")
    scores = anchors @ positives.T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def prompt_alignment(soft: Tensor, parts: Tensor, present: Tensor, rms: float) -> Tensor:
    """Mean squared distance of soft token j to part j of the question, in units of `rms`².

    `parts` [rows, K, width] and `present` [rows, K] are those of `question_parts`.
    """
    distance = (soft.float() - parts.float()).pow(2).mean(-1) / rms**2
    return (distance * present).sum() / present.sum()


def question_parts(embedded: Tensor, span: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean embeddings [rows, K, width] of K equal parts of each question.

    `embedded` is [rows, tokens, width] and `span` [rows, tokens] is True at the question's tokens.
    The second result [rows, K] is False for the parts that contain no token.
    """
    place = span.long().cumsum(1) - 1
    part = (place * k) // span.sum(1, keepdim=True).clamp_min(k)
    member = F.one_hot(part.clamp(0, k - 1), k).to(embedded) * span[..., None]
    count = member.sum(1)
    parts = torch.einsum("btk,btw->bkw", member, embedded) / count.clamp_min(1)[..., None]
    return parts, count > 0


def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum of the terms. Raises ValueError for a term without gradient."""
    dead = [name for name, value in terms.items() if not value.requires_grad]
    if dead:
        raise ValueError(f"{', '.join(dead)} gives no gradient: a detached loss trains nothing")
    weighted = [weights[name] * value for name, value in terms.items()]
    return sum(weighted[1:], start=weighted[0])


def ramp(step: int, start: int, length: int) -> float:
    """0 up to step `start`, 1 from `start + length` on, and linear between them."""
    return min(1.0, max(0.0, (step - start) / max(1, length)))
