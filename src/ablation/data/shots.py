"""The number of examples in each prompt (few-shot)."""

from __future__ import annotations

from collections.abc import Mapping

from ablation.vocabulary.protocols import PUBLISHED_PROTOCOL, protocol_of

Shots = int | Mapping[str, int] | None


def shots_of(task: str, own: int | None, asked: Shots = None) -> int:
    """The number of examples in each prompt of `task`.

    own: the number in the task file. As in lm-eval, a 0 there is never replaced.
    asked: the study's number, of all tasks or by task. The published protocol has no examples.
    """
    if own == 0 or protocol_of(task) == PUBLISHED_PROTOCOL:
        return 0
    number = asked.get(task) if isinstance(asked, Mapping) else asked
    return (own or 0) if number is None else number
