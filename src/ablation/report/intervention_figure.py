"""The figure of the atlas: what each intervention costs, and what comes back, net of control."""

from __future__ import annotations

from typing import TypeAlias

import altair as alt
import pandas as pd

from ablation.report.charts import (
    ALARM,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    blank,
    leak_note,
    line,
    listed,
    mask_names,
    sheet,
    stars,
)
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO
from ablation.vocabulary.recipes import train_mask_of

# {the point: its column, its colour}, from the damaged to the trained model.
POINTS = {
    "A: damaged, not trained": ("ablated", ALARM),
    "D: trained whole, then damaged": ("control_ablated", ORANGE),
    "P: trained under the damage": ("after", GREEN),
}
DRAWN = [
    *("study", "line", "recipe", "seed", "baseline", "damage", "damage_p"),
    *(column for column, _ in POINTS.values()),
    *("net_recovered", "net_recovered_low", "net_recovered_high", "net_recovered_status"),
]
Panel: TypeAlias = alt.LayerChart | alt.FacetChart
LOWEST, HIGHEST = -0.5, 1.5  # of the axis of net recovery; a longer interval ends there


def interventions(recovery: pd.DataFrame, confidence: float = 0.95) -> alt.TopLevelMixin:
    """One line for each thing that is taken away: accuracies A, D, P, and net recovery.

    `recovery` is recovery.csv. A line shows the recipe that was trained under it.
    """
    title = "What each intervention costs, and what training under it brings back"
    own = recovery[
        [_trained_under(*pair) for pair in zip(recovery.recipe, recovery["mask"], strict=True)]
    ]
    rows = own[(own.task == MACRO) & (own["mask"] != CAUSAL)]
    whole = rows[rows.seed == ALL_SEEDS]
    if whole.empty:
        return blank(rows, title)
    # Variants of one recipe share its condition; the shortest name is the recipe itself.
    whole = whole.sort_values("recipe", key=lambda names: names.str.len(), kind="stable")
    whole = whole.drop_duplicates("mask").sort_values("damage", kind="stable")
    rows = rows[rows.recipe.isin(whole.recipe) & (rows.seed != ALL_SEEDS)]
    names, leaks = mask_names(whole), leak_note(whole)
    order = [names[mask] for mask in whole["mask"]]
    whole, rows = (part.assign(line=part["mask"].map(names))[DRAWN] for part in (whole, rows))
    y = alt.Y("line:N", sort=order, title=None, axis=alt.Axis(labelFontSize=12, labelLimit=0))
    height = max(120, 34 * len(whole))
    panels = [
        _accuracies(whole, rows, y).properties(width=440, height=height, title="accuracy (macro)"),
        _net(whole, rows, y).properties(
            width=240, height=height, title="comes back, net of the control"
        ),
    ]
    notes = [
        "Left: how far vermilion lies from the black line, the whole base, is what an intervention "
        "costs (A - B; p < .05 *, < .01 **, < .001 ***, ns: nil).",
        "Orange is the control: the same training without the damage, damaged afterwards.",
        "Right: the share of the gap between equally trained models that training under the damage "
        f"closes, with its {confidence:.0%} interval; a cross is not estimable.",
        f"Small points: seeds {listed(rows.seed)}.",
        leaks,
    ]
    return sheet(alt.hconcat(*panels, spacing=24), whole, title, notes)


def _trained_under(recipe: str, condition: str) -> bool:
    """Whether a recipe trains under a condition, which its name says."""
    words = str(recipe).split("-")[1:]
    return condition in words or (train_mask_of(str(recipe)) == condition and len(words) == 0)


def _accuracies(whole: pd.DataFrame, rows: pd.DataFrame, y: alt.Y) -> Panel:
    def points(frame: pd.DataFrame) -> pd.DataFrame:
        columns = {column: name for name, (column, _) in POINTS.items()}
        kept = frame[["line", "recipe", "seed", *columns]]
        long = kept.melt(["line", "recipe", "seed"], var_name="point", value_name="accuracy")
        return long.assign(point=long.point.map(columns)).dropna(subset="accuracy")

    marks = [
        f"{d:+.2f} {stars(p) or 'ns'}" for d, p in zip(whole.damage, whole.damage_p, strict=True)
    ]
    whole = whole.assign(label=marks)
    x = alt.X("accuracy:Q", scale=alt.Scale(domain=[0, 1]), title="accuracy")
    colour = alt.Color(
        "point:N",
        scale=alt.Scale(domain=list(POINTS), range=[colour for _, colour in POINTS.values()]),
        legend=alt.Legend(title=None, orient="top", symbolSize=110),
    )
    chart, each = alt.Chart(points(whole)), alt.Chart(points(rows))
    base = alt.Chart(whole)
    return alt.layer(
        base.mark_rule(color=INK, strokeWidth=2).encode(x=alt.X("mean(baseline):Q")),
        base.mark_rule(color=ALARM, opacity=0.35, strokeWidth=5).encode(
            x=alt.X("ablated:Q", title="accuracy"), x2="baseline:Q", y=y
        ),
        base.mark_rule(color=GREEN, strokeWidth=2.5).encode(
            x="control_ablated:Q", x2="after:Q", y=y
        ),
        each.mark_point(filled=True, size=14, opacity=0.5).encode(x=x, y=y, color=colour),
        chart.mark_point(filled=True, size=110, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=["line", "recipe", "point", "accuracy"]
        ),
        base.mark_text(align="left", baseline="middle", dx=6, color=INK).encode(
            x=alt.value(440), y=y, text="label:N"
        ),
    )


def _net(whole: pd.DataFrame, rows: pd.DataFrame, y: alt.Y) -> Panel:
    def cut(frame: pd.DataFrame) -> pd.DataFrame:
        columns = ("net_recovered", "net_recovered_low", "net_recovered_high")
        known = frame.net_recovered_status == "estimable"
        ends = {c: frame[c].clip(LOWEST, HIGHEST).where(known) for c in columns}
        return frame.assign(**ends, known=known)

    whole, rows = cut(whole), cut(rows)
    bare = y.copy()
    bare["axis"] = None
    scale = alt.Scale(domain=[LOWEST, HIGHEST], nice=False)
    x = alt.X("net_recovered:Q", scale=scale, title="(P - D) / (C - D)")
    chart = alt.Chart(whole)
    known = alt.datum.known
    return alt.layer(
        line("x", 0, [2, 3]),
        line("x", 1, [6, 3]),
        chart.mark_rule(strokeWidth=2.5, color=INK)
        .transform_filter(known)
        .encode(x=alt.X("net_recovered_low:Q", scale=scale), x2="net_recovered_high:Q", y=bare),
        alt.Chart(rows)
        .mark_point(filled=True, size=16, color=FAINT)
        .transform_filter(known)
        .encode(x=x, y=bare),
        chart.mark_point(filled=True, shape="diamond", size=110, color=INK, opacity=1)
        .transform_filter(known)
        .encode(x=x, y=bare, tooltip=["line", "recipe", "net_recovered"]),
        chart.mark_point(shape="cross", size=60, color=FAINT)
        .transform_filter(~known)
        .encode(x=alt.value(246), y=bare),
    )
