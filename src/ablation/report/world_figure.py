"""The figure of the study of worlds: R of each world, their mean, and where a new one would be."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.report.charts import FAINT, INK, sheet

TITLES = {"recovered": "R = (P - A) / (B - A)", "net_recovered": "net R = (P - D) / (C - D)"}


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
