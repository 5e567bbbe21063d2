"""The loss curves of a study as one table, with the events of each training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

LOSSES = ("loss", "eval_loss", "probe_loss_train_mask", "probe_loss_causal")
COLUMNS = [
    *("study", "recipe", "seed", "train_mask", "train_leaks", "step", "epoch"),
    *LOSSES,
    *("learning_rate", "grad_norm", "event"),
]


def curves_table(
    study: str, runs: Iterable[tuple[str, Mapping, Sequence[Mapping], Sequence[int]]]
) -> pd.DataFrame:
    """One row for each logged step and each event, with `COLUMNS`; losses are nats per token.

    `runs` holds (recipe, summary.json, lines of curve.jsonl, steps at which the training resumed).
    `event` is empty, `not finite` (a loss or gradient norm is not a finite number), `resumed`, or
    `stopped: <reason>`, which ends every run. If a curve has no probe losses, the row of the stop
    has those of the summary.
    """
    rows: list[dict] = []
    for recipe, summary, curve, resumes in runs:
        known = {
            "study": study,
            "recipe": recipe,
            "seed": summary["seed"],
            "train_mask": summary["recipe"].get("train_under") or summary["recipe"]["train_mask"],
            "train_leaks": summary["train_leaks"],
        }
        for record in curve:
            finite = all(math.isfinite(record.get(k) or 0) for k in (*LOSSES, "grad_norm"))
            rows.append({**known, **record, **({} if finite else {"event": "not finite"})})
        rows += [known | {"step": s, "event": "resumed"} for s in resumes]
        last = {"step": summary["steps"], "event": f"stopped: {summary['stop_reason']}"}
        probed = any(k in record for record in curve for k in LOSSES[2:])
        rows.append(known | last | ({} if probed else {k: summary.get(k) for k in LOSSES[2:]}))
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
