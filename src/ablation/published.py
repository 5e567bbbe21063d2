"""Published numbers beside a study's own, in the columns of recovery.csv. Pure: no torch.

resources/published/prefill.json holds what was printed, digit by digit. Accuracies over n items are
whole numbers of right answers, so the printed digits give them back exactly, and a macro is the
mean of its tasks. Where a macro was printed otherwise, the row says so in `note`.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

import pandas as pd

from ablation.names import ALL_SEEDS, MACRO, MACROS, PUBLISHED, macros, metric_of, protocol_of
from ablation.recovery import COLUMNS as RECOVERY_COLUMNS
from ablation.recovery import REHEARSAL, table

NAMED = ["source", "study", "model", "protocol", "metric"]  # `source`: published | ours
COLUMNS = [*NAMED, *(c for c in RECOVERY_COLUMNS if c not in NAMED), "note"]


def exact_accuracy(printed: str, n: int) -> float:
    """k / n with the whole number k of right answers that was printed as `printed`.

    Raises ValueError when no k of n is printed so.
    """
    right = round(float(printed) * n)
    if not as_printed(right / n, printed):
        raise ValueError(f"no whole number of right answers among {n} is printed as {printed}")
    return right / n


def as_printed(value: float, printed: str) -> bool:
    """Whether `value`, rounded to the digits of `printed`, is what was printed."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def accuracies(score: Mapping, items: Mapping[str, int]) -> dict[str, float]:
    """{task: accuracy} with `macro`: the mean of the tasks, or as printed where it stands alone."""
    tasks = {t: exact_accuracy(a, items[t]) for t, a in score.get("tasks", {}).items()}
    return {**tasks, MACRO: mean(tasks.values()) if tasks else float(score["macro"])}


def published_rows(published: Mapping, criteria: Mapping) -> list[dict]:
    """One row per published recipe, mask and task, as `recovery.recovery_rows` names them.

    No sample rows were published, so there are no intervals and no p values, and whether a ratio
    could carry an interval is not known: `recovered_status` is `no_samples`.
    """
    base = {s["mask"]: s for s in published["scores"] if s["recipe"] is None}
    rows = []
    for after in published["scores"]:
        if after["recipe"] is None:
            continue
        used = [base["causal"], base[after["mask"]], after]
        b, a, p = (accuracies(score, published["items"]) for score in used)
        for task in p:
            row = {
                "source": "published",
                **{name: published[name] for name in NAMED[1:]},
                **{name: after[name] for name in ("recipe", "seed", "mask")},
                "task": task,
                "train_leaks": False,
                "eval_leaks": after["mask"] == "full_bidir",
                "n": published["items"].get(task, sum(published["items"].values())),
                "baseline": b[task],
                "after": p[task],
                "retention": p[task] / b[task],
                "recovery_ratio": p[task] / b[task],
                "note": _note(used, published["items"]) if task == MACRO else None,
            }
            if after["mask"] == "causal":
                row["side_effect"] = p[task] - b[task]
            else:
                row |= _lost_and_gained(b[task], a[task], p[task], criteria)
            rows.append(row)
    return rows


def _lost_and_gained(b: float, a: float, p: float, criteria: Mapping) -> dict:
    met = p / b >= criteria["retention"] and p - a >= criteria["gain"]
    row = {"ablated": a, "damage": a - b, "gain": p - a, "criteria_met": met}
    if a >= b:
        return row | {"recovered_status": "not_estimable"}
    return row | {"recovered": (p - a) / (b - a), "recovered_status": "no_samples"}


def _note(used: list[Mapping], items: Mapping[str, int]) -> str | None:
    """What is to be said of a macro row: remarks, and macros printed unlike the mean of tasks."""
    notes = [used[-1]["note"]] if "note" in used[-1] else []
    for column, score in zip(("baseline", "ablated", "after"), used, strict=True):
        value = accuracies(score, items)[MACRO]
        if not as_printed(value, score["macro"]):
            notes.append(f"{column} printed as {score['macro']}; the mean of its tasks stands here")
    return "; ".join(notes) or None


def our_rows(recovery: pd.DataFrame, published: Mapping, named: Mapping) -> pd.DataFrame:
    """The rows over all seeds of recovery.csv (read as text), with their protocol and a note.

    named: {model, metric} of the study. Tasks stand under their published names.
    """
    ours = recovery[recovery.seed == ALL_SEEDS]
    items = {t: int(n) for t, n in zip(ours.task, ours.n, strict=True) if t not in MACROS}
    notes = {m: _unlike(m, tasks, items, published, named) for m, tasks in macros(items).items()}
    protocol = ours.task.map(protocol_of)
    return ours.assign(
        source="ours",
        model=named["model"],
        protocol=protocol,
        metric=ours.task.map(lambda task: metric_of(task, named["metric"])),
        task=ours.task.str.removeprefix(PUBLISHED),
        note=protocol.map({protocol_of(macro): note for macro, note in notes.items()}),
    )[COLUMNS]


def _unlike(
    macro: str, tasks: list[str], items: Mapping, published: Mapping, named: Mapping
) -> str:
    """What forbids to compare our rows of one protocol with the published ones; or nothing."""
    if named.get("rehearsal"):
        return REHEARSAL.removeprefix("false: ")
    found = {"protocol": protocol_of(macro), "metric": metric_of(macro, named["metric"])}
    unlike = [name for name in found if found[name] != published[name]]
    counts = {task.removeprefix(PUBLISHED): items[task] for task in tasks}
    if counts != published["items"]:
        unlike.append("items" if set(counts) == set(published["items"]) else "tasks")
    return f"not comparable with the published rows: other {', '.join(unlike)}" if unlike else ""


def side_by_side(published: Mapping, recovery: pd.DataFrame, config: Mapping) -> pd.DataFrame:
    """published.csv: what was published, then the study's own rows, with `COLUMNS`.

    recovery: recovery.csv read as text, so that its cells stay as they are.
    config: {named: {model, metric}, criteria: {retention, gain}}.
    """
    rows = published_rows(published, config["criteria"])
    theirs = pd.DataFrame(rows).reindex(columns=COLUMNS).astype(object)
    theirs[RECOVERY_COLUMNS] = table(rows).astype(object)
    ours = our_rows(recovery, published, config["named"])
    return pd.concat([theirs, ours.astype(object)], ignore_index=True)
