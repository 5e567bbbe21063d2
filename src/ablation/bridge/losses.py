"""The terms that teach a translator. Each returns its raw value; weights are applied once, in
`total`, which refuses a term that could give no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import LongTensor, Tensor
from torch.nn import functional as F

from ablation.packing import IGNORED_LABEL

TERMS = ("cross_entropy", "kl", "info_nce", "prompt_alignment", "flow")


def answer_logits(logits: Tensor, labels: LongTensor) -> tuple[Tensor, LongTensor]:
    """Logits [targets, vocabulary] where an answer's token is predicted, and those tokens.

    By rows, then by place: target i of an answer is target i whatever stands before the answer.
    """
    chosen = labels[:, 1:] != IGNORED_LABEL
    return logits[:, :-1][chosen], labels[:, 1:][chosen]


def cross_entropy(logits: Tensor, targets: LongTensor) -> Tensor:
    """Mean over the answers' tokens, in nats."""
    return F.cross_entropy(logits.float(), targets)


def kl(logits: Tensor, teacher: Tensor, ids: LongTensor) -> Tensor:
    """KL(teacher || student) in nats, mean over the answers' tokens.

    `teacher` [targets, n] are log-probabilities of its n likeliest tokens `ids`: the target's own,
    reading the question as text. What it gives to all other tokens is compared as one.
    """
    student = logits.float().log_softmax(-1)
    chosen = student.gather(1, ids)
    value = (teacher.exp() * (teacher - chosen)).sum(1)
    if ids.shape[1] < logits.shape[1]:
        p, q = _rest(teacher), _rest(chosen)
        value = value + p * (p.log() - q.log())
    return value.mean()


def _rest(logprobs: Tensor) -> Tensor:
    return (1 - logprobs.exp().sum(1)).clamp_min(1e-6)


def info_nce(soft: Tensor, questions: Tensor, temperature: float) -> Tensor:
    """In-batch contrast (van den Oord et al. 2018): mean soft token against `questions`.

    `questions` [rows, width] are mean embeddings of each row's own question. Raises ValueError
    when rows could not be told apart by them: the loss would be a constant.
    """
    if len(soft) < 2:
        raise ValueError("one row has nothing to be contrasted with: give a larger batch")
    anchors = F.normalize(soft.float().mean(1), dim=-1)
    positives = F.normalize(questions.float(), dim=-1)
    if (positives @ positives.T).fill_diagonal_(-1).max(1).values.min() > 0.9999:
        raise ValueError("the questions' embeddings are all the same: nothing to be told apart")
    scores = anchors @ positives.T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def prompt_alignment(soft: Tensor, parts: Tensor, present: Tensor, rms: float) -> Tensor:
    """Mean squared distance of soft token j to part j of the question, in units of `rms`².

    `parts` [rows, K, width] are mean embeddings of K equal stretches of the question, `present`
    [rows, K] says which hold a token.
    """
    distance = (soft.float() - parts.float()).pow(2).mean(-1) / rms**2
    return (distance * present).sum() / present.sum()


def stretches(embedded: Tensor, span: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean embeddings [rows, K, width] of K equal stretches of a span, present [rows, K]."""
    place = span.long().cumsum(1) - 1
    part = (place * k) // span.sum(1, keepdim=True).clamp_min(k)
    member = F.one_hot(part.clamp(0, k - 1), k).to(embedded) * span[..., None]
    count = member.sum(1)
    parts = torch.einsum("btk,btw->bkw", member, embedded) / count.clamp_min(1)[..., None]
    return parts, count > 0


def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum. Raises ValueError for a term without gradient, or without a weight."""
    dead = [name for name, value in terms.items() if not value.requires_grad]
    if dead:
        raise ValueError(f"{', '.join(dead)} would move nothing: a detached loss is no loss")
    return sum(weights[name] * value for name, value in terms.items())


def ramp(step: int, start: int, length: int) -> float:
    """0 up to `start`, 1 from `start + length` on, straight between: no step jumps."""
    return min(1.0, max(0.0, (step - start) / max(1, length)))
