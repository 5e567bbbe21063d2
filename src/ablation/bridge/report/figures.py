"""Draws the figures of the second study from its tables, in the style of the first study."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.report.charts import FAINT, INK, blank, sheet
from ablation.vocabulary.bridge import SOURCE_FREE

COLOURS = ("#0072b2", "#d55e00", "#4c566a", "#009e73", "#e69f00", "#cc79a7")
# The lines of both models alone, and that of the text answer, may coincide.
DASHES = ([1, 0], [8, 4], [2, 4], [1, 0], [1, 0], [4, 8])
ARMS = ("latent", "target_alone", "source_alone", "token_budget", "cascade", "text_answer")
SHAPES = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down")
LINES = {
    "target_alone": "target alone",
    "source_alone": "source alone",
    "token_budget": "K tokens of text",
    SOURCE_FREE: "prompt without source (floor)",
    "text_answer": "text answer of no more bytes",
}


def accuracy_by_k(runs: pd.DataFrame, recipe: str) -> alt.TopLevelMixin:
    """Accuracy of `recipe` against K, one point a seed, with the other arms as lines."""
    full = runs[runs.recipe == recipe]
    if full.empty:
        return blank(runs, "Accuracy by number of soft tokens")
    free = runs[runs.recipe == SOURCE_FREE].assign(arm=SOURCE_FREE, value=lambda f: f.accuracy)
    parts = [full.assign(arm="bridged", value=full.accuracy)]
    parts += [full.assign(arm=arm, value=full[arm]) for arm in LINES if arm in full]
    frame = pd.concat([*parts, free])[["regime", "k", "seed", "arm", "value", "n"]]
    frame["arm"] = frame.arm.map({"bridged": "bridged", **LINES})
    order = ["bridged", *LINES.values()]
    ks = sorted(int(k) for k in frame.k.unique())
    x = alt.X("k:Q", title="soft tokens K", scale=alt.Scale(type="log", base=2), axis=_axis(ks))
    y = alt.Y("value:Q", title="accuracy on test", scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color(
        "arm:N",
        sort=order,
        scale=alt.Scale(domain=order, range=list(COLOURS)),
        legend=alt.Legend(title=None, orient="top"),
    )
    dash = alt.StrokeDash("arm:N", sort=order, scale=alt.Scale(domain=order, range=DASHES))
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=2)
        .encode(x=x, y=alt.Y("mean(value):Q"), color=colour, strokeDash=dash)
    )
    trained = alt.FieldOneOfPredicate("arm", ["bridged", LINES[SOURCE_FREE]])
    points = (
        alt.Chart()
        .mark_circle(size=36, opacity=0.8)
        .encode(x=x, y=y, color=colour, tooltip=["regime", "arm", "k", "seed", "value", "n"])
        .transform_filter(trained)
    )
    panels = alt.layer(lines, points, data=frame).properties(width=260, height=240)
    panels = panels.facet(column=alt.Column("regime:N", title=None))
    notes = [f"{int(full.n.max()):,} test questions, a point a seed; the step was chosen on dev."]
    return sheet(panels, runs, "Accuracy by number of soft tokens", notes)


def _axis(values: list[int]) -> alt.Axis:
    return alt.Axis(values=values, format="d", labelFlush=False)


def quality_and_cost(inference: pd.DataFrame) -> alt.TopLevelMixin:
    """Exact match of each arm against its KV cache and its latency."""
    if inference.empty:
        return blank(inference, "Quality and cost of the arms")
    legend = alt.Legend(title=None, orient="top")
    scales = [alt.Scale(domain=ARMS, range=list(kind)) for kind in (COLOURS, SHAPES)]
    colour = alt.Color("arm:N", scale=scales[0], legend=legend)
    shape = alt.Shape("arm:N", scale=scales[1], legend=legend)
    y = alt.Y("em:Q", title="exact match", scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(inference).mark_point(filled=True, size=110, opacity=0.8)
    costs = {
        "kv_cache_mb_mean": "KV cache of the answering model, MiB",
        "both_kv_mb_mean": "KV caches of both models, MiB",
        "latency_sec_median": "latency, s (median)",
    }
    rows = []
    for regime in sorted(inference.regime.unique()):
        own = base.transform_filter(alt.datum.regime == regime)
        panels = [
            own.encode(
                x=alt.X(f"{name}:Q", title=title, scale=alt.Scale(zero=True)),
                y=y,
                color=colour,
                shape=shape,
                tooltip=["regime", "arm", "em", name, "num_samples"],
            ).properties(width=260, height=200, title=regime)
            for name, title in costs.items()
        ]
        rows.append(alt.hconcat(*panels))
    notes = [f"{int(inference.num_samples.max())} questions, one at a time; arms take turns."]
    return sheet(alt.vconcat(*rows), inference, "Quality and cost of the arms", notes)


def bridge_curves(curves: pd.DataFrame) -> alt.TopLevelMixin:
    """Dev accuracy during the trainings, with the peak and the last step marked."""
    evaluations = curves[curves.accuracy.notna()] if "accuracy" in curves else curves[:0]
    if evaluations.empty:
        return blank(curves, "Peak and last step")
    cell = ["regime", "recipe", "k", "seed"]
    best_first = evaluations.sort_values("eval_loss")  # equal accuracies as in `best_step`
    peak = evaluations.loc[best_first.groupby(cell).accuracy.idxmax()].assign(point="peak")
    last = evaluations.loc[evaluations.groupby(cell).step.idxmax()].assign(point="last step")
    rows = []
    for regime in sorted(evaluations.regime.unique()):
        at = evaluations.k.mode().iloc[0]
        own = evaluations[(evaluations.regime == regime) & (evaluations.k == at)]
        ends = pd.concat([peak, last])
        ends = ends[(ends.regime == regime) & (ends.k == at)]
        x = alt.X("step:Q")
        y = alt.Y("accuracy:Q", title="dev accuracy", scale=alt.Scale(domain=[0, 1]))
        line = alt.Chart(own).mark_line(color=FAINT).encode(x=x, y=y, detail="seed:N")
        marks = (
            alt.Chart(ends)
            .mark_point(filled=True, size=50)
            .encode(
                x=x,
                y=y,
                shape=alt.Shape(
                    "point:N",
                    scale=alt.Scale(domain=["peak", "last step"], range=["square", "circle"]),
                    legend=alt.Legend(title=None, orient="top"),
                ),
                color=alt.Color(
                    "point:N",
                    scale=alt.Scale(domain=["peak", "last step"], range=[COLOURS[1], INK]),
                    legend=alt.Legend(title=None, orient="top"),
                ),
                tooltip=[*cell, "step", "accuracy", "point"],
            )
        )
        panels = [
            alt.layer(
                line.transform_filter(alt.datum.recipe == recipe),
                marks.transform_filter(alt.datum.recipe == recipe),
            ).properties(width=150, height=120, title=f"{regime}: {recipe}")
            for recipe in own.recipe.unique()
        ]
        rows.append(alt.concat(*panels, columns=5))
    notes = [f"At K = {int(at)}; a line a seed."]
    return sheet(alt.vconcat(*rows), curves, "Peak and last step along training", notes)
