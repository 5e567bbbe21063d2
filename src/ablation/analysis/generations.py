"""Reads what a model has generated: judgements from rows, and again from the texts beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ablation.analysis.metrics import Correct, MetricsDisagree
from ablation.data.generation.exact_match import answers, is_match
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.provenance.files import sha256_text
from ablation.vocabulary.generation import EXACT_MATCH, row_name

KEY = ["task", "doc_id", "filter"]


class TextsDisagree(MetricsDisagree):
    """Verdicts of generated texts are not those that the texts give."""


class Generations(NamedTuple):
    """What `read_generations` returns; tasks are named as rows of tables, with their filters.

    correct: {exact_match: {task: 0/1 indexed by doc_hash}}. truncated: {task: items with a cut
    prompt}, without tasks that have none. clusters: {task: the cluster of each item}, indexed as
    `correct`, of the tasks that have clusters.
    """

    correct: Correct
    truncated: Mapping[str, int]
    clusters: Mapping[str, pd.Series]


def read_generations(home: Path) -> Generations:
    """The judgements of one condition, from the files in the folder `home`.

    Where the texts are there too, answers and judgements are computed from them again; an archive
    has none. Raises TextsDisagree if they differ, or if lm_eval's own values do.
    """
    rows = pd.read_parquet(home / ROWS).sort_values(KEY, kind="stable", ignore_index=True)
    facts = json.loads((home / "evaluation.json").read_text("utf-8"))
    if (home / TEXTS).is_file():
        _judge_again(rows, pd.read_parquet(home / TEXTS), facts["rules"], home)
    correct: dict[str, pd.Series] = {}
    truncated: dict[str, int] = {}
    clusters: dict[str, pd.Series] = {}
    for (task, of_filter), found in rows.groupby(["task", "filter"]):
        name, index = row_name(str(task), str(of_filter)), pd.Index(found.doc_hash)
        right = pd.Series(found[EXACT_MATCH].astype(int).to_numpy(), index, name="right")
        theirs = facts["lm_eval"][task][f"{EXACT_MATCH},{of_filter}"]
        if abs(float(right.mean()) - theirs) > 1e-9:
            raise TextsDisagree(
                f"{home}, {name}: {EXACT_MATCH} is {right.mean():.6f} from the rows, but "
                f"{theirs:.6f} from lm_eval. The rows are not of what was generated"
            )
        correct[name] = right
        if count := int(found.truncated.sum()):
            truncated[name] = count
        groups = pd.Series(found.cluster.to_numpy(), index)
        if groups.nunique() < len(groups):
            clusters[name] = groups
    return Generations({EXACT_MATCH: correct}, truncated, clusters)


def _judge_again(
    rows: pd.DataFrame, texts: pd.DataFrame, rules: Mapping[str, Any], home: Path
) -> None:
    """Raise TextsDisagree unless filters and exact match make the `rows` of the `texts`."""
    texts = texts.sort_values(KEY, kind="stable", ignore_index=True)
    if not texts[KEY].equals(rows[KEY]):
        raise TextsDisagree(f"{home}: {TEXTS} is not of the items and filters of {ROWS}")
    for (task, of_filter), chosen in texts.groupby(["task", "filter"]):
        of_task = rules[str(task)]
        again = answers(chosen.text, of_task["filters"][str(of_filter)])
        judged = rows.loc[chosen.index, ["doc_id", "references", "text_sha256", EXACT_MATCH]]
        judgements = judged.itertuples(index=False, name=None)
        found = zip(chosen.text, chosen.answer, again, judgements, strict=True)
        for text, stored, answer, (doc_id, references, sha256, judgement) in found:
            right = is_match(answer, references, of_task[EXACT_MATCH])
            if (sha256_text(text), stored, right) != (sha256, answer, judgement):
                raise TextsDisagree(
                    f"{home}, {row_name(str(task), str(of_filter))}, doc_id {doc_id}: the text "
                    f"gives the answer {answer!r:.60}, {'right' if right else 'wrong'}, but "
                    f"{stored!r:.60}, {'right' if judgement else 'wrong'}, is stored. The "
                    "rows were edited, or lm_eval's filters have changed since: generate them again"
                )
