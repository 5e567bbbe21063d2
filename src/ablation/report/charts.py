"""Shared parts of all figures: rendering, titles, names, colours of masks, and axes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from ablation.provenance.tables import read_csv, unchecked_in
from ablation.vocabulary.masks import LEAKING_MASKS, MASKS, in_order
from ablation.vocabulary.protocols import ALL_SEEDS, MACROS
from ablation.vocabulary.recipes import RECIPES

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first is part of vl-convert
# The palette of Okabe and Ito (2008), which colour-blind readers can tell apart.
BLUE, SKY, GREEN, ORANGE, VERMILION = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00"
PURPLE, YELLOW = "#cc79a7", "#f0e442"
INK, FAINT, ALARM = "#2e3440", "#8a93a3", VERMILION
MOST_RECIPES = 24  # largest number of recipes in a figure
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LESS = "\ue000"  # stands in for `<` in the data of a page; Unicode assigns no meaning to it
LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))  # levels of significance and their marks
# Colours of the masks that leak nothing, in their order; all masks that leak have the colour ALARM.
_COLOURS = ("#4c566a", BLUE, GREEN, ORANGE, PURPLE, SKY, "#8c510a")
_HONEST = [name for name in MASKS if name not in LEAKING_MASKS]
MASK_COLOURS = dict(zip(_HONEST, cycle(_COLOURS))) | dict.fromkeys(LEAKING_MASKS, ALARM)

# Patterns that end right come first, so that blues and oranges meet at the accuracy P.
FLIPS = {
    "RRR": ("RRR  right throughout", "#dfe5ec"),
    "RWR": ("RWR  lost under the mask, regained", BLUE),
    "WRR": ("WRR  right since the mask was changed", "#b9dff5"),
    "WWR": ("WWR  right only after finetuning", SKY),
    "RWW": ("RWW  lost under the mask, not regained", ALARM),
    "RRW": ("RRW  kept under the mask, broken by finetuning", ORANGE),
    "WRW": ("WRW  right only in between", YELLOW),
    "WWW": ("WWW  wrong throughout", "#7b8494"),
}


def render(chart: alt.TopLevelMixin, suffix: str) -> bytes:
    """A chart as .svg, .png (twice the size, for dense screens) or self-contained .html."""
    return render_all(chart, [suffix])[suffix]


def render_all(chart: alt.TopLevelMixin, suffixes: Iterable[str]) -> dict[str, bytes]:
    """{suffix: chart}, as `render` makes each; the slow part, the specification, is made once."""
    import vl_convert

    with alt.data_transformers.disable_max_rows():
        spec = _drawable(chart.to_dict())
    svg = cache(lambda: vl_convert.vegalite_to_svg(spec))

    def page() -> bytes:
        # A text with `</script>` would end the page's script, so each `<` is written as an escape,
        # which JSON in a script allows and vl-convert would undo: a character stands in for it.
        page = vl_convert.vegalite_to_html(json.dumps(spec).replace("<", LESS), bundle=True)
        return page.replace(LESS, "\\u003c").encode()

    forms: dict[str, Callable[[], bytes]] = {
        ".svg": lambda: svg().encode(),
        ".png": lambda: vl_convert.svg_to_png(svg(), scale=2),
        ".html": page,
    }
    for suffix in suffixes:
        if suffix not in forms:
            raise ValueError(f"no way to draw a chart as {suffix!r}: expected .svg, .png or .html")
    return {suffix: forms[suffix]() for suffix in suffixes}


def _drawable(value: Any) -> Any:
    """A part of a chart whose characters that XML does not allow are written out, such as `\\x1b`.

    With one of them, a token for example, vl-convert ends the whole process.
    """
    if isinstance(value, str):
        return _NO_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
    if isinstance(value, dict):
        return {_drawable(key): _drawable(inner) for key, inner in value.items()}
    return [_drawable(inner) for inner in value] if isinstance(value, list) else value


def read(file: str | Path) -> pd.DataFrame:
    """Read a CSV table. Only empty cells are missing values, since a token may read `nan`."""
    return read_csv(file, keep_default_na=False, na_values=[""], low_memory=False)


def sheet(
    panels: alt.TopLevelMixin, frame: pd.DataFrame, title: str, notes: Iterable[str]
) -> alt.TopLevelMixin:
    """Panels under a title that names the study, with explanatory notes."""
    studies = ", ".join(map(str, frame.study.unique())) if "study" in frame else ""
    marks = [
        f"unchecked: {stage}, whose code was accepted by a reason alone"
        for stage in unchecked_in(frame)
    ]
    heading = alt.TitleParams(
        f"{title} ({studies})" if studies else title,
        subtitle=[*marks, *(note for note in notes if note)],
        anchor="start",
        fontSize=15,
        subtitleFontSize=11,
        subtitleColor=INK,
        offset=12,
    )
    return (
        panels.properties(title=heading)
        .configure(font=FONT)
        .configure_view(stroke="#d8dee9")
        .configure_axis(titleFontWeight="normal", gridColor="#e9edf2")
        .configure_legend(labelLimit=0, titleLimit=0, symbolOpacity=1)
        .configure_title(fontSize=12)
    )


def blank(frame: pd.DataFrame, title: str) -> alt.TopLevelMixin:
    """The figure for a table without rows."""
    nothing = alt.Chart(pd.DataFrame({"x": []})).mark_point()
    return sheet(nothing, frame, title, ["The table has no rows."])


def few_recipes(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of at most MOST_RECIPES recipes, and a note about those that are left out.

    Variants of a sweep are left out in reverse alphabetical order, never by their scores.
    """
    names = sorted(frame.recipe.dropna().unique(), key=lambda name: (name not in RECIPES, name))
    if len(names) <= MOST_RECIPES:
        return frame, ""
    kept = frame.recipe.isna() | frame.recipe.isin(names[:MOST_RECIPES])
    note = (
        f"{MOST_RECIPES} of {len(names):,} recipes are drawn, the first by name: the table has all."
    )
    return frame[kept], note


# ---- words ------------------------------------------------------------------------------------


def seed_names(seeds: pd.Series) -> pd.Series:
    """Seeds as text: `21`, `all`, or `-` for a base model."""
    return seeds.map(lambda s: "-" if pd.isna(s) else str(s).removesuffix(".0")).astype(object)


def tasks_of(frame: pd.DataFrame) -> list[str]:
    """The names of all tasks, followed by the macros."""
    return sorted(frame.task.unique(), key=lambda task: (task in MACROS, task))


def listed(values: Iterable) -> str:
    """The values as a sorted list in one text, without `-` and `all`."""
    return ", ".join(sorted({str(v) for v in values} - {"-", ALL_SEEDS}))


def items(n: pd.Series) -> str:
    """The number of items of each point of a panel, as text."""
    return " to ".join(f"{value:,}" for value in sorted({int(n.min()), int(n.max())})) + " items"


def mask_names(frame: pd.DataFrame) -> dict[str, str]:
    """{mask or intervention: its name, marked if it leaked in any row}, see `in_order`."""
    leaky = set(frame["mask"][are_true(frame.eval_leaks)])
    return {m: m + " (leaks)" * (m in leaky) for m in in_order(frame["mask"])}


def model_names(frame: pd.DataFrame) -> pd.Series:
    """Names of models; if the training mask leaks, a mark follows on a second line, after `|`."""
    leaks = are_true(frame.train_leaks).map({True: "|(trained on a leak)", False: ""})
    return frame.recipe.fillna("base") + leaks


def in_short_lines(name: str, width: int = 13) -> str:
    """A name in lines of up to `width` characters if possible, broken by `|` after hyphens."""
    lines = [""]
    for part in re.findall("[^-|]*[-|]|[^-|]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > width and not lines[-1].endswith("|"):
            lines[-1] += "|"
        if lines[-1].endswith("|"):
            lines.append("")
        lines[-1] += part
    return "".join(lines)


def stars(p: float) -> str:
    """The stars of a p value; none if it is missing or not below .05."""
    return next((mark for level, mark in LEVELS if p < level), "")


def leak_note(frame: pd.DataFrame) -> str:
    """The note about leaks, or nothing if no row leaks."""
    leaks = are_true(frame.eval_leaks).any() or are_true(frame.train_leaks).any()
    return "Leaks: under this mask a model sees the very tokens it is to predict." * bool(leaks)


def are_true(column: pd.Series) -> pd.Series:
    """Which cells of a column of `True`, `False` and empty cells are true."""
    return column.astype(str).str.lower() == "true"


# ---- parts of a chart -------------------------------------------------------------------------


def placed(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`frame` with `seed`, `model` and `mask_name` as text, and a `slot` beside a model's tick.

    Slots are ordered by mask, then seed, so that no two rows of a model and task overlap. They are
    returned in this order, with a gap between masks. A model without seeds has the middle slot of
    its mask.
    """
    seeds = seed_names(frame.seed)
    order = sorted(set(seeds) - {"-"}, key=lambda s: (s == ALL_SEEDS, len(s), s)) or ["-"]
    masks = mask_names(frame)
    middle = order[(len(order) - 1) // 2]
    frame = frame.assign(
        seed=seeds,
        model=model_names(frame),
        mask_name=frame["mask"].map(masks),
        slot=frame["mask"] + "/" + seeds.replace("-", middle),
    )
    return frame, [f"{mask}/{s}" for mask in masks for s in [*order, ""]][:-1]


def mask_colour(frame: pd.DataFrame) -> alt.Color:
    """The colours of the masks in a frame, with their legend."""
    names = mask_names(frame)
    return alt.Color(
        "mask_name:N",
        scale=alt.Scale(domain=list(names.values()), range=_colours(names)),
        legend=alt.Legend(title="mask while scoring", orient="top", symbolType="circle"),
    )


def _colours(conditions: Iterable[str]) -> list[str]:
    """The colours of masks, and of interventions from those that no mask has."""
    free = cycle(_COLOURS[len(_HONEST) :])
    return [MASK_COLOURS.get(name) or next(free) for name in conditions]


def marks(column: pd.Series, shapes: Mapping[str, str]) -> alt.Shape:
    """The shapes of the kinds of points that occur, with a legend if there are several."""
    used = {kind: shape for kind, shape in shapes.items() if kind in set(column)}
    legend = alt.Legend(title="point", orient="top") if len(used) > 1 else None
    scale = alt.Scale(domain=list(used), range=list(used.values()))
    return alt.Shape("mark:N", scale=scale, legend=legend)


def line(axis: str, value: float, dash: Sequence[int]) -> alt.Chart:
    """A reference line across a panel."""
    mark = alt.Chart(pd.DataFrame({"at": [value]})).mark_rule(color=FAINT, strokeDash=list(dash))
    return mark.encode(**{axis: {"x": alt.X, "y": alt.Y}[axis]("at:Q")})


def two_lines(**options: Any) -> alt.Axis:
    """An axis whose labels break at `|`."""
    return alt.Axis(labelExpr="split(datum.label, '|')", labelLimit=0, **options)


def two_line_header(**options: Any) -> alt.Header:
    """A facet's header whose labels break at `|`."""
    return alt.Header(labelExpr="split(datum.value, '|')", title=None, labelFontSize=12, **options)


def tooltip(frame: pd.DataFrame, *columns: str) -> list[alt.Tooltip]:
    """The columns that a tooltip shows; a bare name would cost Altair 6 ms for each."""
    known = ("recipe", "seed", "mask", "task", "n", "train_leaks", "eval_leaks")
    return [alt.Tooltip(c) for c in (*known, *columns) if c in frame]
