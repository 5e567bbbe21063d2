"""The loss curves of a study as one table: every logged step, and what happened to the training."""

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
    """One row per logged step and per event, with `COLUMNS`; losses in nats a response token.

    `runs` holds (recipe, summary.json, lines of curve.jsonl, steps at which it was resumed).
    `event` is empty, `not finite` (a loss or gradient was none), `resumed`, or `stopped: <reason>`,
    which ends every run. Where the curve has no probe losses, those of the summary stand in the
    row of the stop.
    """
    rows = []
    for recipe, summary, curve, resumes in runs:
        known = {
            "study": study,
            "recipe": recipe,
            "seed": summary["seed"],
            "train_mask": summary["recipe"]["train_mask"],
            "train_leaks": summary["train_leaks"],
        }
        for record in curve:
            finite = all(math.isfinite(record.get(k) or 0) for k in (*LOSSES, "grad_norm"))
            rows.append(known | record | ({} if finite else {"event": "not finite"}))
        rows += [known | {"step": s, "event": "resumed"} for s in resumes]
        last = {"step": summary["steps"], "event": f"stopped: {summary['stop_reason']}"}
        probed = any(k in record for record in curve for k in LOSSES[2:])
        rows.append(known | last | ({} if probed else {k: summary.get(k) for k in LOSSES[2:]}))
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
