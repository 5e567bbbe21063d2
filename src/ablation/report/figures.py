"""The figures of the first study. The same table gives the same bytes.

Every row of a table is drawn: a value that is not estimable, not measured or not finite is a cross,
and masks and recipes that leak are marked wherever they are named.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from ablation.report.charts import (
    ALARM,
    BLUE,
    FAINT,
    FLIPS,
    INK,
    ORANGE,
    are_true,
    blank,
    few_recipes,
    in_short_lines,
    items,
    leak_note,
    line,
    listed,
    marks,
    mask_colour,
    mask_names,
    model_names,
    placed,
    seed_names,
    sheet,
    stars,
    tasks_of,
    tooltip,
    two_line_header,
    two_lines,
)
from ablation.report.intervention_figure import interventions
from ablation.report.length_figure import lengths
from ablation.report.mask_figure import masks
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO, MACROS

__all__ = [
    "accuracy",
    "curves",
    "flips",
    "interventions",
    "lengths",
    "masks",
    "recovery",
]  # the figures of the catalogue

LOWEST, HIGHEST = -2.0, 3.0  # of the axis of recovered fractions, at most
BASE_LINE, REFERENCE = [6, 3], [2, 3]  # dashes of lines

LOSSES = {
    "loss": ("training batches, training mask", "#b9c4d0"),
    "eval_loss": ("held-out samples, training mask", BLUE),
    "probe_loss_train_mask": ("probe samples, training mask", ORANGE),
    "probe_loss_causal": ("the same probe samples, causal", INK),
}


def accuracy(
    per_task: pd.DataFrame, chance: pd.DataFrame | None = None, confidence: float = 0.95
) -> alt.TopLevelMixin:
    """Accuracy of base and finetuned models in each task, with a point for each seed.

    `per_task` is per_task.csv, `confidence` the level of its intervals; `chance`, if known, has the
    columns `task` and `chance` (bag_of_words.csv).
    """
    title = "Accuracy per task under each mask"
    if per_task.empty:
        return blank(per_task, title)
    per_task, few = few_recipes(per_task)
    frame, slots = placed(per_task)
    frame["model"] = frame.model.map(in_short_lines)
    frame["mark"] = frame.accuracy.isna().map({True: "not measured", False: "one seed"})
    models = list(dict.fromkeys(frame.sort_values("recipe", na_position="first").model))
    known = {}
    if chance is not None:
        known = dict(zip(chance.task, chance.chance, strict=True))
        known |= {MACRO: chance.chance.mean()} if set(tasks_of(frame)) <= {*known, MACRO} else {}
    place = {
        "x": alt.X("model:N", sort=models, title=None, axis=two_lines(labelAngle=0)),
        "xOffset": alt.XOffset("slot:N", scale=alt.Scale(domain=slots)),
        "color": mask_colour(frame),
    }
    y = alt.Y("accuracy:Q", scale=alt.Scale(domain=[0, 1]), title="accuracy")
    shape = marks(frame.mark, {"one seed": "circle", "not measured": "cross"})
    panels = []
    for task in tasks_of(frame):
        rows = frame[frame.task == task]
        start = rows.accuracy[rows.recipe.isna() & (rows["mask"] == CAUSAL)].dropna()
        chart = alt.Chart(rows).encode(**place, tooltip=tooltip(rows, "accuracy"))
        points = chart.mark_point(filled=True, size=30, opacity=1).encode(shape=shape)
        layers = [
            *(line("y", value, BASE_LINE) for value in start),
            *(line("y", known[task], REFERENCE) for _ in range(task in known)),
            chart.mark_rule(opacity=0.6).encode(y="accuracy_low:Q", y2="accuracy_high:Q"),
            points.transform_filter("isValid(datum.accuracy)").encode(y=y),
            points.transform_filter("!isValid(datum.accuracy)").encode(y=alt.value(-7)),
        ]
        size = {"width": max(260, 72 * len(models)), "height": 200}
        panels.append(alt.layer(*layers).properties(title=f"{task}, {items(rows.n)}", **size))
    notes = [
        f"One point a seed ({listed(frame.seed)}, left to right); base: stages 1 and 2, without a "
        "seed; recipes: finetuned from it, stage 4.",
        f"Vertical lines: {confidence:.0%} intervals over items, where the table has them. Dashed: "
        "the base under causal." + " Dotted: chance." * bool(known),
        leak_note(frame),
        few,
    ]
    return sheet(alt.concat(*panels, columns=3), frame, title, notes)


def recovery(recovery: pd.DataFrame, confidence: float = 0.95) -> alt.TopLevelMixin:
    """Recovered fraction of each recipe, ablated mask, seed and task, with intervals.

    `recovery` is recovery.csv; its rows under `causal` have no recovered fraction. Values and
    intervals beyond the axis end in triangles; a value that is not estimable is a cross beside it.
    """
    title = "What finetuning gives back, per recipe and mask"
    rows = recovery[recovery["mask"] != CAUSAL]
    if rows.empty:
        return blank(rows, title)
    rows, few = few_recipes(rows)
    one_seed = rows.seed[rows.seed.astype(str) != ALL_SEEDS].nunique() == 1
    if one_seed:  # the rows of all seeds say the same
        rows = rows[rows.seed.astype(str) != ALL_SEEDS]
    frame, slots = placed(rows)
    bounds = {"from": "recovered_low", "to": "recovered_high", "shown": "recovered"}
    ends = frame[list(bounds.values())].melt().value.dropna().tolist()
    low, high = max(LOWEST, min([-0.2, *ends])), min(HIGHEST, max([1.2, *ends]))
    frame = frame.assign(**{k: frame[v].clip(low, high) for k, v in bounds.items()})
    estimable = frame.recovered.notna() & (frame.recovered_status == "estimable")
    frame["mark"] = (frame.seed == ALL_SEEDS).map({True: "all seeds", False: "one seed"})
    frame["mark"] = frame.mark.mask(are_true(frame.seeds_disagree), "all seeds, which disagree")
    frame["mark"] = frame.mark.where(estimable, "not estimable")
    frame["inside"] = frame.recovered.between(low, high)
    frame["stars"] = frame.gain_p.map(stars)
    beyond = pd.concat(
        [frame[frame[v] < low].assign(edge=low, angle=180) for v in bounds.values()]
        + [frame[frame[v] > high].assign(edge=high, angle=0) for v in bounds.values()]
    ).assign(mark="goes on beyond the axis")
    shapes = {"one seed": "circle", "all seeds": "diamond", "all seeds, which disagree": "square"}
    shapes |= {"not estimable": "cross", "goes on beyond the axis": "triangle-right"}
    shape = marks(pd.concat([frame.mark, beyond.mark]), shapes)
    models = list(dict.fromkeys(frame.sort_values("recipe").model))
    place = {
        "y": alt.Y("model:N", sort=models, title=None, axis=two_lines()),
        "yOffset": alt.YOffset("slot:N", scale=alt.Scale(domain=slots)),
        "color": mask_colour(frame),
    }
    x = alt.X(
        "shown:Q",
        scale=alt.Scale(domain=[low - 0.06, high + 0.06], nice=False),  # ends stay within it
        axis=alt.Axis(values=[n / 2 for n in range(-4, 7)]),
        title="recovered fraction R = (P - A) / (B - A)",
    )
    large = alt.datum.seed == ALL_SEEDS
    size = alt.condition(large, alt.value(90), alt.value(70 if one_seed else 28))
    width = alt.condition(large, alt.value(2.5), alt.value(2 if one_seed else 1))
    dash = alt.condition("datum.eval_leaks", alt.value([4, 2]), alt.value([1, 0]))
    panel_width = 230
    panels = []
    for task in sorted(tasks_of(frame), key=lambda t: t not in MACROS):
        rows = frame[frame.task == task]
        chart = alt.Chart(rows).encode(**place, tooltip=tooltip(rows, *bounds.values()))
        points = chart.mark_point(filled=True, opacity=1).encode(shape=shape, size=size)
        ends = alt.Chart(beyond[beyond.task == task]).mark_point(filled=True, size=28, opacity=1)
        unknown = alt.datum.mark == "not estimable"
        layers = [
            line("x", 0, REFERENCE),
            line("x", 1, BASE_LINE),
            chart.mark_rule(opacity=0.6).encode(
                x="from:Q", x2="to:Q", strokeWidth=width, strokeDash=dash
            ),
            points.transform_filter(~unknown & alt.datum.inside).encode(x=x),
            points.transform_filter(unknown).encode(x=alt.value(panel_width + 9)),
            # beside the panel, where no line is
            chart.mark_text(align="left", baseline="middle", dy=2, fontSize=12)
            .transform_filter(~unknown if one_seed else large & ~unknown)
            .encode(x=alt.value(panel_width + 4), text="stars:N"),
            ends.encode(**place, shape=shape, x="edge:Q", angle=alt.Angle("angle:Q", scale=None)),
        ]
        # a recipe takes the same height in all panels, also where few recipes have the task
        height = max(80, max(7 * len(slots), 26) * rows.model.nunique())
        panel = {"width": panel_width, "height": height}
        panels.append(alt.layer(*layers).properties(title=f"{task}, {items(rows.n)}", **panel))
    notes = [
        "B: base under causal. A: base under the mask. P: finetuned, under the mask. At 0 (dotted) "
        "nothing has come back, at 1 (dashed) all that was lost.",
        f"Horizontal lines: {confidence:.0%} intervals (Fieller); {_seeds(frame.seed)}. Dashed: "
        "under a mask that leaks. Not estimable: nothing was lost, or the interval is unbounded.",
        ""
        if one_seed
        else "Seeds disagree where P differs between them by more than the draw of items explains "
        "(p < .01): look at each; the interval over so few does not say how often one fails.",
        "Stars" + ", of all seeds" * (not one_seed) + ": the gain P - A differs from 0, "
        "p < .05 *, < .01 **, < .001 ***.",
        leak_note(frame),
        few,
    ]
    return sheet(alt.concat(*panels, columns=3), frame, title, notes)


def _seeds(seeds: pd.Series) -> str:
    names = listed(seeds)
    return f"seeds {names} from top to bottom" if "," in names else f"seed {names}"


def curves(curves: pd.DataFrame) -> alt.TopLevelMixin:
    """Losses of every run (logarithmic) with its stop and resumes: one panel a recipe and seed.

    `curves` is curves.csv. A leak shows where the same probe samples cost far less under the
    training mask than under `causal`.
    """
    title, height = "Losses while finetuning", 130
    if curves.empty:
        return blank(curves, title)
    curves, few = few_recipes(curves)
    frame = curves.assign(
        run=model_names(curves).str.replace("|", " ") + "|trained under " + curves.train_mask,
        seed=seed_names(curves.seed),
    )
    runs = list(dict.fromkeys(frame.sort_values("recipe", kind="stable").run))
    keys = ["run", "seed", "step"]
    losses = frame.melt(keys, list(LOSSES), "quantity").dropna(subset="value")
    losses["shown"] = losses.value.clip(lower=1e-4)  # a logarithmic axis has no zero
    losses["quantity"] = losses.quantity.map(lambda name: LOSSES[name][0])
    last = losses.groupby(["run", "seed", "quantity"]).step.transform("max") == losses.step
    losses["last"] = losses.value.map("{:.2g}".format).where(last)
    events = frame[[*keys, "event"]].dropna()
    events["kind"] = events.event.str.partition(":")[0]
    names, colours = zip(*LOSSES.values(), strict=True)
    decades = [10.0**n for n in range(-4, 5)]
    below = max([d for d in decades if d <= losses.shown.min()], default=decades[0])
    above = min([d for d in decades if d >= losses.shown.max()], default=decades[-1])

    chart = alt.Chart(pd.concat([losses, events]))
    x = alt.X("step:Q", title="optimizer step")
    y = alt.Y(
        "shown:Q",
        scale=alt.Scale(type="log", domain=[below, above]),
        axis=alt.Axis(values=decades, format="~g"),
        title="nats a response token",
    )
    legend = alt.Legend(title="mean loss on", orient="top", columns=2, symbolType="circle")
    colour = alt.Color("quantity:N", scale=alt.Scale(domain=names, range=colours), legend=legend)

    def loss(*quantities: str) -> alt.Chart:
        chosen = alt.FieldOneOfPredicate("quantity", list(quantities))
        encoded = chart.transform_filter(chosen).encode(x=x, y=y, color=colour)
        return encoded.encode(tooltip=["run:N", "seed:N", "step:Q", "quantity:N", "value:Q"])

    def event(kind: str, **encodings: Any) -> alt.Chart:
        return chart.transform_filter(alt.datum.kind == kind).encode(x=x, **encodings)

    text = {"fontSize": 9, "color": INK}
    towards_middle = alt.ExprRef(f"datum.step < {frame.step.max() / 2} ? 'left' : 'right'")
    layers = [
        loss(*names).mark_line(strokeWidth=1.3),
        loss(names[3]).mark_point(filled=True, size=40, opacity=1),
        loss(*names[1:3]).mark_point(filled=True, size=16, opacity=1),
        *(
            loss(name)
            .transform_filter("isValid(datum.last)")
            .mark_text(align="left", dx=6, dy=dy, fontSize=9)
            .encode(text="last:N")
            for name, dy in zip(names[2:], (5, -4), strict=True)
        ),
        event("stopped").mark_rule(color=FAINT, strokeDash=REFERENCE),
        event("stopped", y=alt.value(-6), text="event:N").mark_text(align=towards_middle, **text),
        event("resumed", y=alt.value(height - 16), y2=alt.value(height)).mark_rule(color=INK),
        event("resumed", y=alt.value(height - 22), text="event:N").mark_text(
            align=towards_middle, **text
        ),
        event("not finite", y=alt.value(22)).mark_point(
            shape="cross", color=ALARM, filled=True, size=50, opacity=1
        ),
        event("not finite", y=alt.value(22), text="event:N").mark_text(
            align=towards_middle, dy=12, fontSize=9, color=ALARM
        ),
    ]
    panels = (
        alt.layer(*layers)
        .properties(width=250, height=height)
        .facet(
            row=alt.Row("seed:N", header=alt.Header(title=None, labelExpr="'seed ' + datum.value")),
            column=alt.Column("run:N", sort=runs, header=two_line_header()),
            spacing={"column": 50, "row": 32},
        )
    )
    notes = [
        "Dotted vertical line: where the training stopped, and why. Numbers: last losses of the "
        "probe samples, under both masks.",
        "A leak shows where the same samples cost far less under the training mask than under "
        "causal.",
        few,
    ]
    return sheet(panels, frame, title, notes)


def flips(flips: pd.DataFrame) -> alt.TopLevelMixin:
    """Shares of the eight patterns of right and wrong in each recipe, mask, task and seed.

    `flips` is flips.csv; each thin bar is one seed.
    """
    title = "Which items are lost, and which come back"
    if flips.empty:
        return blank(flips, title)
    flips, few = few_recipes(flips)
    names = mask_names(flips)
    frame = flips.assign(
        seed=seed_names(flips.seed),
        model=model_names(flips),
        mask_name=flips["mask"].map(names),
        meaning=flips.pattern.map(lambda pattern: FLIPS[pattern][0]),
        order=flips.pattern.map(list(FLIPS).index),
    )
    meanings, colours = zip(*FLIPS.values(), strict=True)
    seeds = sorted(frame.seed.unique())
    legend = alt.Legend(
        title="base under causal, base under the mask, finetuned under the mask: right or wrong",
        orient="top",
        columns=2,
    )
    bars = (
        alt.Chart(frame)
        .mark_bar(height=alt.RelativeBandSize(0.9))
        .encode(
            x=alt.X(
                "share:Q",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%"),
                title="share of items",
            ),
            y=alt.Y("task:N", sort=tasks_of(frame), title=None),
            yOffset=alt.YOffset("seed:N", scale=alt.Scale(domain=seeds)),
            color=alt.Color(
                "meaning:N", scale=alt.Scale(domain=meanings, range=colours), legend=legend
            ),
            order="order:Q",
            tooltip=tooltip(frame, "meaning", "items", "share"),
        )
        .properties(width=330, height=alt.Step(max(20, 8 * len(seeds) + 4), **{"for": "position"}))
    )
    panels = bars.facet(
        row=alt.Row("model:N", header=two_line_header(labelAngle=0, labelAlign="left")),
        column=alt.Column("mask_name:N", sort=list(names.values()), header=two_line_header()),
    )
    one_task = frame.n[~frame.task.isin(MACROS)]
    notes = [
        f"One bar a seed ({listed(frame.seed)}, top to bottom)"
        + (f"; {items(one_task)} a task. " if len(one_task) else ". ")
        + "macro: mean of the tasks' shares.",
        "Light grey and blues: right after finetuning. They end at the accuracy P.",
        leak_note(frame),
        few,
    ]
    return sheet(panels, frame, title, notes)
