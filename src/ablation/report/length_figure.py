"""The figure of retrieval tasks: accuracy by the length of a prompt and the place of the answer."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.data.needles import CHOICES, POSITIONS, tokens_and_position
from ablation.report.charts import (
    blank,
    few_recipes,
    leak_note,
    line,
    listed,
    mask_colour,
    mask_names,
    model_names,
    seed_names,
    sheet,
    tooltip,
)

CHANCE = 1 / CHOICES


def lengths(per_task: pd.DataFrame, confidence: float = 0.95) -> alt.TopLevelMixin:
    """Accuracy by length: a row of panels for each model, a column for each place of the answer.

    `per_task` is per_task.csv, `confidence` the level of its intervals. Tasks that are no retrieval
    tasks are left out.
    """
    title = "Retrieval by the length of the prompt and the place of the answer"
    found = per_task.task.map(tokens_and_position)
    rows = per_task[found.notna()]
    if rows.empty:
        return blank(rows, title)
    rows, few = few_recipes(rows)
    tokens, positions = zip(*found[rows.index], strict=True)
    rows = rows.assign(
        tokens=tokens,
        position=positions,
        seed=seed_names(rows.seed),
        model=model_names(rows),
        mask_name=rows["mask"].map(mask_names(rows)),
    )
    models = list(dict.fromkeys(rows.sort_values("recipe", na_position="first").model))
    ticks = sorted(rows.tokens.unique().tolist())
    places = [position for position in POSITIONS if position in positions]
    colour = mask_colour(rows)  # one for all panels, so that a mask has the same in each
    panels = [
        _panel(rows[(rows.model == model) & (rows.position == place)], ticks, colour).properties(
            title=f"{model.replace('|', ' ')}: answer {place}", width=230, height=170
        )
        for model in models
        for place in places
    ]
    seeds = listed(rows.seed)
    notes = [
        f"Lines go through the means of seeds{f' ({seeds})' if seeds else ''}; points are seeds, "
        f"with their {confidence:.0%} intervals over items. Dotted: chance.",
        "early, middle, late: the answer stands after 10 %, 50 % or 90 % of the prompt.",
        leak_note(rows),
        few,
    ]
    return sheet(alt.concat(*panels, columns=len(places)), rows, title, notes)


def _panel(
    rows: pd.DataFrame, ticks: list[int], colour: alt.Color
) -> alt.LayerChart | alt.FacetChart:
    chart = alt.Chart(rows)
    x = alt.X(
        "tokens:Q",
        title="tokens of the prompt",
        scale=alt.Scale(type="log", domain=[ticks[0] * 0.85, ticks[-1] * 1.18], nice=False),
        axis=alt.Axis(values=ticks, format=","),
    )
    scale = alt.Scale(domain=[0, 1])
    y = alt.Y("accuracy:Q", scale=scale, title="accuracy")
    return alt.layer(
        line("y", CHANCE, [2, 3]),
        chart.mark_line(strokeWidth=2).encode(
            x=x, y=alt.Y("mean(accuracy):Q", scale=scale, title="accuracy"), color=colour
        ),
        chart.mark_rule(opacity=0.5).encode(
            x=x, y=alt.Y("accuracy_low:Q", scale=scale), y2="accuracy_high:Q", color=colour
        ),
        chart.mark_point(filled=True, size=30, opacity=1).encode(
            x=x, y=y, color=colour, tooltip=tooltip(rows, "accuracy")
        ),
    )
