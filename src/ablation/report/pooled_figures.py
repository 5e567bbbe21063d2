"""The figures of several studies together: of other worlds, and of families in the records."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.report.charts import ALARM, BLUE, FAINT, GREEN, INK, ORANGE, line, sheet
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO, MACROS

TITLES = {"recovered": "R = (P - A) / (B - A)", "net_recovered": "net R = (P - D) / (C - D)"}
COLOURS = {
    "none": INK,
    "first order": BLUE,
    "second order": GREEN,
    "both orders": INK,
    "seen in pretraining": ORANGE,
    "the tasks": ALARM,
}
LOWEST, HIGHEST = -1.0, 1.2  # of the axis; an interval that is longer ends there


def worlds(rows: pd.DataFrame, pooled: pd.DataFrame) -> alt.TopLevelMixin:
    """One panel for each mask and measure: the worlds as points, below them their mean.

    `rows` and `pooled` are those of `ablation.analysis.worlds`.
    """
    panels = []
    for (mask, measure), group in rows.groupby(["mask", "measure"], sort=False):
        means = pooled[(pooled["mask"] == mask) & (pooled.measure == measure)]
        y = alt.Y("recipe:N", title=None)
        each = alt.Chart(group).encode(y=y, yOffset=alt.YOffset("world:N"))
        points = each.mark_point(filled=True, size=34, opacity=0.7, color=FAINT)
        mean = alt.Chart(means)
        layers = [
            mean.mark_rule(color=INK, strokeDash=[2, 2]).encode(
                x=alt.X("new_world_low:Q", title=TITLES[str(measure)]), x2="new_world_high:Q", y=y
            ),
            mean.mark_rule(color=INK, strokeWidth=3).encode(x="low:Q", x2="high:Q", y=y),
            mean.mark_point(filled=True, shape="diamond", size=90, color=INK, opacity=1).encode(
                x="mean:Q", y=y
            ),
            each.mark_rule(color=FAINT, opacity=0.7).encode(x="low:Q", x2="high:Q"),
            points.encode(x="value:Q", tooltip=list(rows.columns)),
        ]
        height = 46 * max(1, group.recipe.nunique())
        panels.append(
            alt.layer(*layers).properties(title=f"under {mask}", width=330, height=height)
        )
    notes = [
        "Points: worlds, each with facts, items, records and a base of its own; the mean over its "
        "seeds and tasks, with its interval.",
        "Diamond and thick line: mean over the population of worlds, with its interval. Dashed: "
        "the interval for a new world.",
    ]
    title = "What finetuning gives back in other worlds"
    return sheet(alt.concat(*panels, columns=2), rows, title, notes)


def doses(rows: pd.DataFrame, mask: str) -> alt.TopLevelMixin:
    """Above, R and net R of the macro; below, R of each task. Points: seeds, and their mean.

    `rows` are those of `ablation.analysis.doses`.
    """
    rows = rows[rows["mask"] == mask]
    sides = rows.group.map({"first order": -1, "second order": 1}).fillna(0)
    rows = rows.assign(dose=_doses(rows), side=sides)
    macro = rows[rows.task == MACRO]
    above = [_panel(macro, measure, title, 340) for measure, title in TITLES.items()]
    lost = rows[rows.recovered.notna() & ~rows.task.isin(MACROS)]
    below = [
        _panel(rows[rows.task == task], "recovered", f"R of {task}", 340)
        for task in sorted(lost.task.unique())
    ]
    notes = [
        "Families: how many the records hold beside open requests, a quarter of the records. "
        "No record asks a scored task, but for `tasks`.",
        "Diamond and line: mean over seeds with its interval. Small points: seeds. `4 seen`: "
        "families of which pretraining has seen the text; all other families it has not.",
        "Tasks that lost nothing under the mask have no R and no panel.",
    ]
    title = f"What comes back by the number of families in the records, under {mask}"
    return sheet(alt.concat(*above, *below, columns=2), rows, title, notes)


def _doses(rows: pd.DataFrame) -> pd.Series:
    """The tick of each row: the number of families, marked unless pretraining has not seen them."""
    marks = {"seen in pretraining": " seen", "the tasks": "tasks"}
    numbers = rows.families.astype(str).where(rows.group != "the tasks", "")
    return numbers + rows.group.map(marks).fillna("")


def _panel(
    rows: pd.DataFrame, measure: str, title: str, width: int
) -> alt.LayerChart | alt.FacetChart:
    ticks = sorted(rows.dose.unique(), key=lambda t: (not t.isdigit(), t == "tasks", _number(t)))
    ends = {
        f"{measure}_{end}": rows[f"{measure}_{end}"].clip(LOWEST, HIGHEST)
        for end in ("low", "high")
    }
    rows = rows.assign(**ends)
    together, apart = rows[rows.seed == ALL_SEEDS], rows[rows.seed != ALL_SEEDS]
    x = alt.X("dose:N", sort=ticks, title="families in the records", axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("side:N", scale=alt.Scale(domain=[-1, 0, 1]))
    scale = alt.Scale(domain=[LOWEST, HIGHEST])
    colour = alt.Color(
        "group:N",
        scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
        legend=alt.Legend(title="families", orient="top", columns=3),
    )
    mean, seeds = alt.Chart(together), alt.Chart(apart)
    y = alt.Y(f"{measure}:Q", scale=scale, title=title)
    layers = [
        line("y", 0, [2, 2]),
        line("y", 1, [2, 2]),
        mean.mark_rule(strokeWidth=2.5).encode(
            x=x,
            xOffset=offset,
            y=alt.Y(f"{measure}_low:Q", scale=scale),
            y2=f"{measure}_high:Q",
            color=colour,
        ),
        seeds.mark_point(filled=True, size=22, opacity=0.8, color=FAINT).encode(
            x=x, xOffset=offset, y=y, tooltip=["recipe", "seed", f"{measure}:Q"]
        ),
        mean.mark_point(filled=True, shape="diamond", size=90, opacity=1).encode(
            x=x, xOffset=offset, y=y, color=colour
        ),
    ]
    return alt.layer(*layers).properties(width=width, height=230)


def _number(tick: str) -> int:
    return int(tick.split()[0]) if tick[:1].isdigit() else 0
