"""The logits that predict the tokens of an answer."""

from __future__ import annotations

from torch import Tensor

from ablation.model.packing import IGNORED_LABEL


def answer_logits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [targets, vocabulary] that predict the answers' tokens, and those tokens [targets].

    `logits` is [rows, tokens, vocabulary] and `labels` [rows, tokens]. Targets are in the order of
    rows and then of tokens, so target i of an answer does not depend on the prompt before it.
    """
    chosen = labels[:, 1:] != IGNORED_LABEL
    return logits[:, :-1][chosen], labels[:, 1:][chosen]
