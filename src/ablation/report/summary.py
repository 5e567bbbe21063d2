"""The first page of the report: the finding in two sentences, a figure, and the table behind it."""

from __future__ import annotations

import altair as alt
import pandas as pd

from ablation.report.charts import (
    INK,
    are_true,
    line,
    listed,
    mask_colour,
    mask_names,
    model_names,
    render,
    seed_names,
    two_lines,
)
from ablation.report.finding import finding
from ablation.report.html_tables import Marked, Section, html_page
from ablation.report.recovery_columns import (
    BACK,
    NET_RECOVERED,
    RECOVERED,
    interval,
    legend,
    warnings_of,
)
from ablation.vocabulary.masks import CAUSAL, in_order
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO, MACROS

MOST_ROWS = 18  # as many as stand on a screen
LOWEST, HIGHEST = -1.0, 1.5  # of the axis; a longer interval ends in a triangle there


def summary(recovery: pd.DataFrame, shown: pd.DataFrame) -> list[Section]:
    """The section of the page: `shown` are the rows of all seeds, without those under `causal`."""
    rows = [
        {
            "recipe": row.recipe,
            "mask": row["mask"],
            "leaks": _leaks(row),
            "B": f"{row.baseline:.3f}",
            "A": _digits(row.ablated),
            "P": _digits(row.after),
            RECOVERED: interval("recovered", decimals=2)(row),
            NET_RECOVERED: interval("net_recovered", decimals=2)(row),
        }
        for _, row in shown.iterrows()
    ]
    described = "Recovered fraction of each recipe and mask with its interval, as in the table."
    figure = (render(chart(shown), ".svg"), described) if rows else None
    left_out = "" if len(rows) < MOST_ROWS else " The page What came back has every row."
    notes = (legend(rows) + " In brackets: confidence intervals." + left_out) if rows else ""
    title = f"Recovered of macro accuracy, {seeds_of(recovery)}"
    return [Section(title, rows, legend=notes, figure=figure)]


def page(recovery: pd.DataFrame) -> str:
    """The page, from recovery.csv."""
    macro = MACRO if (recovery.task == MACRO).any() else MACROS[1]
    whole = recovery[(recovery.task == macro) & (recovery.seed == ALL_SEEDS)]
    whole = whole[whole["mask"] != CAUSAL]
    leaks = are_true(whole.eval_leaks)
    told = whole.comparable.map({True: "true", "True": "true"}).fillna(whole.comparable)
    whole = whole.assign(comparable=told)
    place = whole["mask"].map(in_order(whole["mask"]).index) + 1000 * leaks
    whole = whole.loc[place.sort_values(kind="stable").index]
    studies = ", ".join(map(str, recovery.study.unique()))
    notes = [*finding(recovery), *warnings_of(whole)]
    return html_page(f"The answer ({studies})", notes, summary(recovery, whole.head(MOST_ROWS)))


def seeds_of(frame: pd.DataFrame) -> str:
    """`all seeds`, or `seed 31` in a study of one."""
    several = seed_names(frame.seed)
    known = listed(several)
    return "all seeds" if "," in known or not known else f"seed {known}"


def chart(shown: pd.DataFrame) -> alt.TopLevelMixin:
    """R of each recipe and mask: a point, told apart by colour and shape, on its interval."""
    names = mask_names(shown)
    bounds = {"from": "recovered_low", "to": "recovered_high", "at": "recovered"}
    known = shown.recovered.notna() & (shown.recovered_status == "estimable")
    cut = {
        key: shown[column].astype(float).clip(LOWEST, HIGHEST).where(known)
        for key, column in bounds.items()
    }
    frame = shown.assign(model=model_names(shown), mask_name=shown["mask"].map(names), **cut)
    columns = ["model", "mask", "mask_name", "eval_leaks", *bounds]
    known_rows = frame.loc[known, columns]
    shapes = ["circle", "triangle-up", "square", "diamond", "cross"] * len(names)
    shape = alt.Shape(
        "mask_name:N", scale=alt.Scale(domain=[*names.values()], range=shapes[: len(names)])
    )
    base = alt.Chart(known_rows).encode(
        y=alt.Y(
            "model:N",
            sort=[*dict.fromkeys(frame.model)],
            title=None,
            axis=two_lines(labelFontSize=12),
        ),
        yOffset=alt.YOffset("mask_name:N", sort=[*names.values()]),
        color=mask_colour(shown),
    )
    low = min(-0.2, *known_rows["from"], 0) if len(known_rows) else -0.2
    high = max(1.2, *known_rows["to"], 0) if len(known_rows) else 1.2
    scale = alt.Scale(domain=[low - 0.03, high + 0.03], nice=False)
    title = "recovered fraction R: 0 nothing, 1 all that was lost"
    x = alt.X("at:Q", scale=scale, title=title)
    layers = [
        line("x", 0, [2, 3]),
        line("x", 1, [6, 3]),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("from:Q", scale=scale, title=title), x2="to:Q"
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, shape=shape),
    ]
    height = max(90, 22 * len(shown))
    drawn = alt.layer(*layers).properties(width=230, height=height)
    plain = drawn.configure(font="Liberation Sans, Arial, Helvetica, sans-serif")
    return plain.configure_axis(titleFontWeight="normal", titleColor=INK).configure_view(
        stroke="#d8dee9"
    )


def _leaks(row: pd.Series) -> str:
    text = BACK["leaks"](row)
    return text if text == "-" else Marked(text, "bad")


def _digits(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}"
