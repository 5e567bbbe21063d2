"""Sample rows: one row for each question and arm, from which every table is computed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ablation.bridge.evaluation.generate import Generated
from ablation.bridge.evaluation.scores import score_answer
from ablation.provenance.files import write_bytes


def sample_rows(generated: Generated, records: Sequence[Mapping], **columns: object) -> list[dict]:
    """One row a question: the generated text, whether it ended, its answer, scores and clusters.

    `cluster` names the clusters of the question, with spaces between them. Questions with a cluster
    in common are no independent draws; without any, a question is independent.

    `columns` are added to every row.
    """
    found = []
    texts = zip(generated.texts, generated.ended, records, strict=True)
    for item, (text, ended, record) in enumerate(texts):
        score = score_answer(text, record)
        found.append(
            {
                **columns,
                "item": item,
                "text": text,
                "ended": int(ended),
                "answer": score.answer,
                "correct": int(score.correct),
                "f1": round(score.f1, 6),
                "cluster": record.get("cluster", ""),
            }
        )
    return found


def write_samples(path: str | Path, rows: Sequence[Mapping]) -> None:
    """Write sample rows as a parquet file."""
    buffer = io.BytesIO()
    pd.DataFrame(rows).to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())
