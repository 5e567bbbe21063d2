"""The pages of the report, as HTML made from tables. No number is computed here.

The functions that `ablation.vocabulary.catalogue` names take the tables of their page.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import pandas as pd

from ablation.analysis.published import OWN_SOURCE
from ablation.report.charts import FLIPS, seed_names, stars
from ablation.report.html_tables import Marked, Section, html_page
from ablation.report.recovery_columns import (
    BACK,
    LOST,
    SIDE,
    Cell,
    legend,
    measured_losses,
    seeds,
    warnings_of,
)
from ablation.report.summary import page as summary
from ablation.report.summary import seeds_of
from ablation.vocabulary.masks import CAUSAL, in_order
from ablation.vocabulary.metrics import METRIC
from ablation.vocabulary.protocols import ALL_SEEDS, MACROS

__all__ = [
    "accuracy",
    "bag_of_words",
    "contrasts",
    "flips",
    "published",
    "recovery",
    "samples",
    "summary",
    "trainings",
]  # the pages of the catalogue

EXPLAINED = (
    "In brackets: confidence intervals; docs/statistics.md says how far to trust them. All scores "
    "of a row are of the same items. held out: the finetuning records hold none of these tasks. "
    "criteria met: the study's thresholds on P / B and P - A. seeds, disagree: P differs between "
    "the seeds by more than the draw of items explains (p < .01), so look at each seed."
)
STARS = "Stars: p < .05 *, < .01 **, < .001 ***. Click a head to sort by its column."
# The order of `ablation.report.figures.FLIPS`: items that are right after finetuning come first.
PATTERNS = tuple(FLIPS)
SHOWN_METRICS = tuple(metric.name for metric in METRIC.values() if metric.shown)


def recovery(recovery: pd.DataFrame) -> str:
    """recovery.csv in three parts: lost accuracy, recovered accuracy, and the side effect."""
    texts = recovery.comparable.map(lambda value: "true" if _true(value) else str(value))
    recovery = recovery.assign(comparable=texts)
    parts = []
    for rows, part in _by_seed(recovery, "macro accuracy", "each task"):
        masked, causal = rows[rows["mask"] != CAUSAL], rows[rows["mask"] == CAUSAL]
        lost = measured_losses(masked)
        if "each seed" not in part:
            parts.append(_section(f"What was lost: {part}", _formatted(lost, LOST, "damage")))
        parts.append(_section(f"What came back: {part}", _formatted(masked, BACK, "gain")))
        title = f"Side effect on ordinary, causal use: {part}"
        parts.append(_section(title, _formatted(causal, SIDE, "side_effect")))
    notes = [EXPLAINED, STARS, *warnings_of(recovery)]
    return html_page(_titled("What was lost, and what came back", recovery), notes, parts)


def _by_seed(frame: pd.DataFrame, macros: str, tasks: str) -> list[tuple[pd.DataFrame, str]]:
    """The rows of all seeds, then those of each one, with a title; of one seed there is no more."""
    macro, whole, seeds = frame.task.isin(MACROS), _whole(frame), seeds_of(frame)
    parts = [
        (frame[macro & whole], f"{macros}, {seeds}"),
        (frame[~macro & whole], f"{tasks}, {seeds}"),
    ]
    several = frame.seed[~whole].nunique() != 1
    return [*parts, (frame[macro & ~whole], f"{macros}, each seed")] if several else parts


def _whole(frame: pd.DataFrame) -> pd.Series:
    return frame.seed.astype(str) == ALL_SEEDS


def _section(title: str, rows: list[dict], compact: bool = False) -> Section:
    """A table with the meanings of its letters and recipes below it."""
    return Section(title, rows, legend=legend(rows), compact=compact)


def _formatted(rows: pd.DataFrame, cells: Mapping[str, Cell], effect: str) -> list[dict]:
    """Rows with the cells of `ablation table`, stars at p values, and marked leaks."""
    formatted = []
    one_seed, macro = set(rows.seed) <= {ALL_SEEDS}, set(rows.task) <= {MACROS[0]}
    for _, row in _by_mask(rows).iterrows():
        texts = {h: cell(row) for h, cell in cells.items() if not (macro and h == "task")}
        if "recipe" in texts and not one_seed:
            texts.pop("seeds")
            texts = {"recipe": texts.pop("recipe"), "seed": row.seed} | texts
        elif "seeds" in texts:
            texts["seeds"] = _alarm(texts["seeds"])
        texts["p"] = f"{texts['p']} {stars(row[effect + '_p'])}".strip()
        formatted.append(texts | {"leaks": _alarm(texts["leaks"])})
    return formatted


def _by_mask(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of masks, in which masks that leak come last, and then interventions."""
    order = rows["mask"].map(in_order(rows["mask"]).index)
    return rows.loc[order.sort_values(kind="stable").index]


def published(published: pd.DataFrame) -> str:
    """published.csv: published numbers beside those of this study."""

    def cells(row: pd.Series) -> dict:
        return {
            "source": Marked(row.source, "good") if row.source == OWN_SOURCE else row.source,
            "model": _text(row.model),
            "protocol": row.protocol,
            "metric": row.metric,
            "recipe": row.recipe,
            "mask": row["mask"],
            "leaks": _leaks(row),
            "task": row.task,
            "n": _text(row.n),
            "B": _digits(row.baseline),
            "A": _digits(row.ablated),
            "P": _digits(row.after),
            "P - A": _digits(row.gain, "+.3f"),
            "P / B": _digits(row.retention),
            "recovered": _digits(row.recovered, "+.2f"),
            "note": _text(row.note),
        }

    macro = published.task.isin(MACROS)
    parts = [
        _section(title, [cells(row) for _, row in published[rows].iterrows()], compact=True)
        for rows, title in ((macro, "Macro accuracy"), (~macro, "Each task"))
    ]
    notes = [
        "Two rows whose model, protocol, metric or mask differ are not the same measurement. "
        "The published recoveries were scored under full_bidir, a mask that leaks."
    ]
    return html_page("Published numbers beside those of this study", notes, parts)


def contrasts(contrasts: pd.DataFrame) -> str:
    """contrasts.csv: the recovered fraction of one recipe minus that of another."""

    def cells(row: pd.Series) -> dict:
        name = "recovered_difference"
        value, low, high = (row[c] for c in (name, f"{name}_low", f"{name}_high"))
        significant = not pd.isna(value) and (low > 0 or high < 0)
        interval = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" + " *" * significant
        return {
            "recipe": row.recipe,
            "against": row.against,
            "seed": str(row.seed),
            "mask": row["mask"],
            "leaks": _leaks(row),
            "seeds": _alarm(seeds(row)),
            "task": row.task,
            "n": _text(row.n),
            "P": _digits(row.after),
            "P against": _digits(row.after_against),
            "difference of recovered": "not estimable" if pd.isna(value) else interval,
        }

    parts = [
        _section(title, [cells(row) for _, row in _by_mask(rows).iterrows()])
        for rows, title in _by_seed(contrasts, "Macro accuracy", "Each task")
    ]
    notes = [
        "Same items, same B - A. A star: the interval leaves out 0. Seeds disagree: the difference "
        "of P differs between them by more than the draw of items explains (p < .01)."
    ]
    return html_page(_titled("One recipe against another", contrasts), notes, parts)


def accuracy(per_task: pd.DataFrame) -> str:
    """per_task.csv: the accuracies of every scored condition."""

    def cells(row: pd.Series) -> dict:
        interval = f" [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"
        return {
            "stage": row.stage,
            "recipe": _text(row.recipe, "base"),
            "seed": row.seed,
            "mask": row["mask"],
            "leaks": _leaks(row),
            "task": row.task,
            "n": _text(row.n),
            "metric": _text(row.metric),
            "accuracy": _digits(row.accuracy) + interval * (not pd.isna(row.accuracy_low)),
            **{name: _digits(row[name]) for name in SHOWN_METRICS},
            "truncated": _text(row.truncated),
        }

    table = per_task.assign(seed=seed_names(per_task.seed))
    macro = table.task.isin(MACROS)
    parts = [
        _section(title, [cells(row) for _, row in table[rows].iterrows()])
        for rows, title in ((macro, "Macro accuracy"), (~macro, "Each task"))
    ]
    notes = ["Brackets: Wilson intervals over items, of the study's own metric."]
    return html_page(_titled("Accuracy of every scored condition", per_task), notes, parts)


def trainings(curves: pd.DataFrame) -> str:
    """curves.csv: the last losses of every finetuning, in nats per response token, and its stop."""
    rows = []
    for (recipe, seed), run in curves.groupby(["recipe", "seed"], sort=False):
        events = run.event.dropna()
        stop = events[events.str.startswith("stopped: ")].iloc[-1].removeprefix("stopped: ")
        last = {c: run[c].dropna().iloc[-1] if run[c].notna().any() else None for c in run}
        rows.append(
            {
                "recipe": recipe,
                "seed": _text(seed),
                "training mask": last["train_mask"],
                "leaks": _alarm("train" if _true(last["train_leaks"]) else "-"),
                "steps": _text(last["step"]),
                "epochs": _digits(last["epoch"], ".2f"),
                "last loss": _digits(last["loss"]),
                "held-out loss": _digits(last["eval_loss"]),
                "probe, training mask": _digits(last["probe_loss_train_mask"]),
                "probe, causal": _digits(last["probe_loss_causal"]),
                "resumed": str((events == "resumed").sum()),
                "stopped by": stop,
            }
        )
    notes = [
        "Losses in nats a response token. Both probe losses are of the same training samples: "
        "where the first is far below the second, the training mask shows the model its targets."
    ]
    title = _titled("How every finetuning ended", curves)
    return html_page(title, notes, [_section("Finetunings", rows)])


def flips(flips: pd.DataFrame) -> str:
    """flips.csv: the counts of the eight patterns, one column each."""
    keys = ["recipe", "seed", "mask", "train_leaks", "eval_leaks", "task", "n"]
    counts = flips.pivot_table(index=keys, columns="pattern", values="items", sort=False)
    rows = [
        {key: _text(row[key]) for key in ("recipe", "seed", "mask")}
        | {"leaks": _leaks(row), "task": row.task, "n": _text(row.n)}
        | {pattern: _text(row.get(pattern)) for pattern in PATTERNS}
        for _, row in counts.reset_index().iterrows()
    ]
    notes = [
        "R right, W wrong: of the base under causal, of the base under the mask, of the finetuned "
        "model under the mask. RWR was lost and regained, RWW lost for good, RRW broken by "
        "finetuning alone."
    ]
    return html_page(_titled("What became of each item", flips), notes, [_section("Items", rows)])


def bag_of_words(bags: pd.DataFrame) -> str:
    """bag_of_words.csv: the accuracy of bag-of-words models on each task."""

    def cells(row: pd.Series) -> dict:
        near = "yes" if _true(row.near_chance) else Marked("no", "bad")
        fresh = f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"
        scored = (row.scored_accuracy, row.scored_accuracy_low, row.scored_accuracy_high)
        return {
            "task": row.task,
            "chance": _digits(row.chance),
            "near chance": near,
            "n": _text(row.n),
            "accuracy": fresh,
            "items of the task": _text(row.scored_n),
            "accuracy on those": "{:.3f} [{:.3f}, {:.3f}]".format(*scored),
        }

    notes = [
        "A model of word counts, trained on many items, tested on n fresh ones of held-out scenes "
        "and on those that the study writes for the task (it may score fewer). 95 % intervals."
    ]
    parts = [Section("Tasks", [cells(row) for _, row in bags.iterrows()])]
    return html_page("What each task gives away without word order", notes, parts)


def samples(samples: pd.DataFrame) -> str:
    """samples.csv: a table for each prompt, with rows for models and columns for masks."""
    parts = []
    for number, (prompt, of_prompt) in enumerate(samples.groupby("prompt", sort=False), 1):
        answer = _text(of_prompt.answer.iloc[0]).strip()
        rows = []
        models = of_prompt.groupby(["model", "seed"], sort=False, dropna=False)
        for (model, seed), texts in models:
            seed_text = _text(seed)
            row = {"model": f"{model} seed {seed_text}" if seed_text else str(model)}
            for _, one in texts.iterrows():
                row[one["mask"]] = _continued(one.text, answer)
            rows.append(row)
        note = f"{prompt}\n\nexpected: {answer}" if answer else str(prompt)
        parts.append(Section(f"Prompt {number}", rows, note))
    notes = [
        "Prefill under the mask, then greedy, causal decoding. full_bidir generates as "
        "prefill_bidir does: while a prompt is read there is no continuation that it could see. "
        "Green and underlined: the continuation begins as expected."
    ]
    return html_page("The same prompts through every model", notes, parts)


def _continued(text: str, answer: str) -> str:
    text = _text(text).strip()
    return Marked(text, "good") if answer and text.startswith(answer) else text


def _titled(title: str, frame: pd.DataFrame) -> str:
    return f"{title} ({', '.join(map(str, frame.study.unique()))})"


def _leaks(row: pd.Series) -> str:
    found = [n for n in ("train", "eval") if _true(row[f"{n}_leaks"])]
    return _alarm(" ".join(found) or "-")


def _alarm(text: str) -> str:
    return text if text in ("", "-") else Marked(text, "bad")


def _true(value: object) -> bool:
    return str(value).lower() == "true"


def _text(value: Hashable, nothing: str = "") -> str:
    """A cell as text, `nothing` if it is empty; whole numbers lose their `.0`."""
    empty = value is None or value != value or value is pd.NA  # NaN is unequal to itself
    return nothing if empty else str(value).removesuffix(".0")


def _digits(value: float | None, form: str = ".3f") -> str:
    return "" if value is None or pd.isna(value) else format(value, form)
