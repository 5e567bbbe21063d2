"""Tables to charts (altair). Pure: a table in, a chart out; the same table gives the same bytes."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.names import MACRO, MASKS

MASK_COLOURS = ("#4c566a", "#2a7fb8", "#d1495b")  # causal, prefill_bidir, full_bidir (leaks)
FONT = "Helvetica, Arial, sans-serif"


def render(chart: alt.TopLevelMixin, suffix: str) -> bytes:
    """A chart as .svg, .png (twice the size, for dense screens) or self-contained .html."""
    import vl_convert

    spec = chart.to_dict()
    if suffix == ".svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    if suffix == ".png":
        return vl_convert.vegalite_to_png(spec, scale=2)
    if suffix == ".html":
        return vl_convert.vegalite_to_html(spec, bundle=True).encode()
    raise ValueError(f"no way to draw a chart as {suffix!r}: expected .svg, .png or .html")


def accuracy(per_task: pd.DataFrame) -> alt.TopLevelMixin:
    """Accuracy of base and finetuned models per task, one colour a mask, one mark a seed.

    `per_task` is per_task.csv; vertical lines are its intervals, the macro has none.
    """
    frame = per_task.assign(
        model=per_task.recipe.fillna("base"),
        seed=per_task.seed.astype("Int64").astype(str).replace("<NA>", "-"),
    )
    tasks = [*sorted(t for t in frame.task.unique() if t != MACRO), MACRO]
    models = ["base", *sorted(m for m in frame.model.unique() if m != "base")]
    place = {
        "x": alt.X("model:N", sort=models, title=None, axis=alt.Axis(labelAngle=0)),
        "xOffset": alt.XOffset("mask:N", sort=list(MASKS)),
        "color": alt.Color(
            "mask:N",
            sort=list(MASKS),
            scale=alt.Scale(domain=list(MASKS), range=list(MASK_COLOURS)),
            legend=alt.Legend(title="mask while scoring", orient="top"),
        ),
    }
    shown = ["model", "seed", "mask", "task", "n", "accuracy", "accuracy_low", "accuracy_high"]
    points = (
        alt.Chart()
        .mark_point(filled=True, size=36, opacity=0.9)
        .encode(
            **place,
            y=alt.Y("accuracy:Q", scale=alt.Scale(domain=[0, 1]), title="accuracy"),
            tooltip=shown,
        )
    )
    intervals = (
        alt.Chart()
        .mark_rule(opacity=0.45)
        .encode(**place, y="accuracy_low:Q", y2="accuracy_high:Q")
    )
    panels = [
        alt.layer(intervals, points, data=frame[frame.task == task]).properties(
            width=230, height=200, title=task
        )
        for task in tasks
    ]
    return (
        alt.concat(*panels, columns=3)
        .properties(title="Accuracy per task: base and finetuned models under each mask")
        .configure(font=FONT)
        .configure_view(stroke="#d8dee9")
    )
