"""Writes the cached source activations and teacher log-probabilities of every split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ablation.bridge.data.prompts import Question
from ablation.bridge.data.question_files import read_questions
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.model import ragged
from ablation.bridge.model.activations import source_activations, teacher_logprobs
from ablation.bridge.model.pair import Pair
from ablation.bridge.model.splits import SOURCE, TEACHER, TEACHER_IDS
from ablation.console.progress import Progress
from ablation.provenance.atomic import atomic_path
from ablation.vocabulary.bridge import SPLITS

READ_BATCH = 64  # questions in one forward of a frozen model, at most
FILE_QUESTIONS = 256  # questions whose activations are in one file


class ReadOptions(NamedTuple):
    """The source's layer, and how many of the likeliest tokens of the teacher are kept."""

    layer: int
    teacher_top: int


def write_activations(
    pair: Pair,
    questions: str | Path,
    regime: str,
    options: ReadOptions,
    home: str | Path,
    meter: SectionMeter,
) -> None:
    """Write the cached activations of every split as files in `home`/<split>.

    Each file holds some hundred questions, so no split has to fit into memory. Only the training
    split has teacher log-probabilities. `meter` gets a section for each split.
    """
    for split in SPLITS:
        records = read_questions(questions, regime, split)
        progress = Progress(f"{meter.label or regime}: reading {split}", len(records))
        with meter.section(f"read {split}", len(records)), atomic_path(Path(home) / split) as own:
            own.mkdir()
            for start in range(0, len(records), FILE_QUESTIONS):
                part = records[start : start + FILE_QUESTIONS]
                arrays = read_activations(pair, part, options, teacher=split == "train")
                ragged.save(own / f"{start:06}.safetensors", arrays)
                progress.update(start + len(part))


def read_activations(
    pair: Pair, records: Sequence[Mapping], options: ReadOptions, teacher: bool
) -> dict[str, ragged.Ragged]:
    """The arrays of a file: source activations and, with `teacher`, its log-probabilities."""
    texts = [Question.of(record).text for record in records]  # never a query of a context
    arrays = {SOURCE: source_activations(pair.source, texts, options.layer, READ_BATCH)}
    if teacher:
        arrays[TEACHER], arrays[TEACHER_IDS] = teacher_logprobs(
            pair.target, records, options.teacher_top, READ_BATCH
        )
    return arrays
