"""The figure of the masks on one item."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.report.charts import ALARM, BLUE, FAINT, INK, blank, sheet
from ablation.vocabulary.masks import MASKS

REASONS = {
    "past": ("itself or an earlier token", "#b9c4d0"),
    "later prompt": ("a later prompt token (the prompt is read in both directions)", BLUE),
    "undecoded": ("an answer token that inference would not have yet", "#f5cba7"),
    "own target": ("the very token it is to predict: the leak", ALARM),
}


def masks(cells: pd.DataFrame) -> alt.TopLevelMixin:
    """The masks on one item as matrices, coloured by the reason why a token may attend to another.

    `cells` is mask_cells.csv.
    """
    title = "The three masks: who may look at whom"
    if cells.empty:
        return blank(cells, title)
    frame = cells.assign(reason=cells.why.map(lambda why: REASONS[why][0]))
    for role in ("query", "key"):
        tokens = frame[f"{role}_token"].fillna("").str.replace("\n", "\\n").str.strip()
        frame[role] = frame[role].map("{:04d} ".format) + tokens
    reasons, colours = zip(*REASONS.values(), strict=True)
    colour = alt.Color("reason:N", scale=alt.Scale(domain=reasons, range=colours), legend=None)
    axis = {"labelExpr": "slice(datum.label, 5)", "labelFontSize": 9, "labelOverlap": False}
    axis |= {"ticks": False, "labelPadding": 2, "titleColor": FAINT}
    panels = []
    for mask in [m for m in MASKS if m in set(frame["mask"])]:
        rows = frame[frame["mask"] == mask]
        order = sorted(rows["query"].unique())
        diagonal = rows[rows["query"] == rows.key]
        parts = diagonal.groupby("query_part", sort=False).key.agg(["first", "count"]).reset_index()
        parts["middle"] = [
            order[order.index(first) + count // 2]
            for first, count in zip(parts["first"], parts["count"], strict=True)
        ]
        x = {"sort": order, "axis": alt.Axis(orient="top", labelAngle=-90, **axis)}
        y = {"sort": order, "axis": alt.Axis(**axis)}
        shown = ["mask", "query_token", "key_token", "query_part", "key_part", "reason"]
        cell = alt.Chart(rows).mark_rect(stroke="white", strokeWidth=0.5, aria=False)
        seam = alt.Chart(parts[1:]).mark_rule(color=INK, strokeWidth=0.8)
        part = alt.Chart(parts).mark_text(fontSize=10, color=INK, align="left", dx=5)
        layers = [
            cell.encode(
                x=alt.X("key:N", title="token looked at", **x),
                y=alt.Y("query:N", title="token that looks", **y),
                color=colour,
                tooltip=shown,
            ),
            seam.encode(x=alt.X("first:N", bandPosition=0, **x)),
            seam.encode(y=alt.Y("first:N", bandPosition=0, **y)),
            part.encode(x=alt.value("width"), y=alt.Y("middle:N", **y), text="query_part:N"),
        ]
        name = mask + " (leaks)" * ("own target" in set(rows.why))
        size = {"width": alt.Step(9), "height": alt.Step(9)}
        panels.append(alt.layer(*layers).properties(title=name, **size))
    # the legend fills the quadrant that three panels leave free
    place = alt.Y("reason:N", sort=reasons, axis=None)
    key = alt.Chart(pd.DataFrame({"reason": reasons})).encode(y=place)
    legend = alt.layer(
        key.mark_square(size=130, opacity=1).encode(x=alt.value(4), color=colour),
        key.mark_text(align="left").encode(x=alt.value(18), text="reason:N"),
    ).properties(
        height=alt.Step(20),
        title=alt.TitleParams("A token (row) may look at (column)", anchor="start", frame="group"),
        view=alt.ViewConfig(stroke=None),
    )
    notes = [
        "One scored item in its row. Its choices share one copy of the prompt; under full_bidir "
        "the prompt sees the choice, so that each stands alone (here the first).",
        "A token predicts the one after it, the last prompt token the first of each choice. Left "
        "white: not allowed.",
    ]
    figure = alt.concat(*panels, legend, columns=2)
    return sheet(figure, frame, title, notes)
