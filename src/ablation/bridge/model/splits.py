"""The questions of one split with the cached activations of the frozen models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ablation.bridge.data.question_files import read_questions
from ablation.bridge.model import ragged
from ablation.vocabulary.bridge import SPLITS

# Names of the arrays in the files of cached activations.
SOURCE, TEACHER, TEACHER_IDS = "states", "teacher", "teacher_ids"


@dataclass(frozen=True)
class Split:
    """The questions of one split with what the frozen models computed from them."""

    records: Sequence[Mapping]  # {question, answer, solution?, match?}
    activations: tuple[Tensor, ...]  # of the source: [tokens, width] for each question
    # log-probabilities and ids [answer tokens, top] for each question, of the training split only
    teacher: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None

    @classmethod
    def of(cls, records: Sequence[Mapping], cached: Mapping[str, tuple[Tensor, ...]]) -> Split:
        """A split of `records` and the rows of its cached arrays."""
        teacher = (cached[TEACHER], cached[TEACHER_IDS]) if TEACHER in cached else None
        return cls(records, cached[SOURCE], teacher)


def read_splits(
    questions: str | Path, activations: str | Path, regime: str, names: Sequence[str] = SPLITS
) -> dict[str, Split]:
    """{split: its questions with their cached activations}, from the two folders."""
    return {
        name: Split.of(
            read_questions(questions, regime, name), ragged.load(Path(activations) / name)
        )
        for name in names
    }
