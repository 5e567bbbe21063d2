"""Promises of the figures: every row is drawn, leaks are named, equal tables give equal bytes."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.analysis.conditions import Condition, per_task_table
from ablation.analysis.curves import curves_table
from ablation.analysis.flips import flips_table
from ablation.analysis.recovery import study_tables, table
from ablation.report import figures
from ablation.report.charts import in_short_lines, read, render
from ablation.vocabulary.masks import MASKS
from ablation.vocabulary.metrics import METRICS
from tests.support.settings import recovery_settings

ROOT = Path(__file__).resolve().parents[3]
CONFIG = recovery_settings()


def condition(rates, mask="causal", recipe=None, seed=None, n=60):
    """A condition that gets about `rates` (task to share) of n items right."""
    rng = np.random.default_rng([MASKS.index(mask), seed or 0, len(recipe or "")])
    right = {
        task: pd.Series((rng.random(n) < rate).astype(int), index=[f"{task}{i}" for i in range(n)])
        for task, rate in rates.items()
    }
    return Condition(
        stage="s",
        mask=mask,
        recipe=recipe,
        seed=seed,
        train_leaks=recipe == "3B-leaky",
        eval_leaks=mask == "full_bidir",
        circumstances={},
        manifest="m",
        correct=dict.fromkeys(METRICS, right),
        truncated={},
    )


def study():
    """Task `a` loses much, task `b` nothing: there R cannot be estimated."""
    conditions = [condition({"a": 0.95, "b": 1.0})]
    conditions += [condition({"a": 0.4, "b": 1.0}, mask) for mask in MASKS[1:]]
    for recipe, rate in (("3A", 0.45), ("3B", 0.9), ("3B-leaky", 0.7)):
        for seed in (9, 10):
            conditions += [condition({"a": rate, "b": 1.0}, m, recipe, seed) for m in MASKS]
    return conditions


def runs():
    """Three trainings: resumed twice and whole; stopped by a leak; not finite."""
    for recipe, mask, reason, causal in (
        ("3A", "causal", "max_steps", 1.0),
        ("3B-leaky", "full_bidir", "leak_alarm", 2.5),
        ("5A", "prefill_bidir", "non_finite", 1.1),
    ):
        curve = [{"step": s, "loss": 3.0 / s} for s in range(1, 9)]
        probes = {"probe_loss_train_mask": 0.0 if causal > 2 else 1.0, "probe_loss_causal": causal}
        curve += [{"step": s, "eval_loss": 2.0 / s} | probes for s in (4, 8)]
        if reason == "non_finite":
            curve.append({"step": 9, "loss": float("nan"), "grad_norm": float("inf")})
        summary = {"seed": 7, "steps": 9, "stop_reason": reason, "recipe": {"train_mask": mask}}
        summary |= {"train_leaks": causal > 2}
        yield recipe, summary, curve, [3, 6] if recipe == "3A" else []


def cells():
    """The item `a b` with the continuation `c` under every mask, written by hand."""
    rows = []
    for mask, allowed in zip(
        MASKS,
        (("past",) * 3, ("later prompt", *("past",) * 3), ("undecoded", "own target", "past")),
        strict=True,
    ):
        for i, why in enumerate(allowed):
            rows.append((mask, i % 3, (i + 1) % 3, "null", "\n", "prompt", "choice 1", why))
        rows += [(mask, i, i, "|", "", "prompt", "prompt", "past") for i in range(3)]
    names = ["query_token", "key_token", "query_part", "key_part", "why"]
    return pd.DataFrame(rows, columns=["mask", "query", "key", *names])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """What each figure is drawn from, after a round trip through a csv file."""
    conditions = study()
    chance = pd.DataFrame({"task": ["a", "b"], "chance": [0.25, 0.5]})
    frames = {
        "accuracy": (per_task_table("t", conditions, "acc", 0.95), chance),
        "recovery": (table(study_tables(conditions, CONFIG)[0]),),
        "curves": (curves_table("t", runs()),),
        "flips": (flips_table("t", conditions, "acc"),),
        "masks": (cells(),),
    }
    folder = tmp_path_factory.mktemp("tables")

    def stored(name, frame):
        frame.to_csv(folder / name, index=False)
        return read(folder / name)

    return {
        figure: [stored(f"{figure}{i}.csv", f) for i, f in enumerate(made)]
        for figure, made in frames.items()
    }


FIGURES = ("accuracy", "recovery", "curves", "flips", "masks")


def svg_of(figure, *frames):
    return render(getattr(figures, figure)(*frames), ".svg").decode()


def marks(svg, kind):
    """How many marks of a kind (symbol, rect, rule, text) a chart has, legends and axes aside."""
    groups = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
    wanted = [g for g in groups if g.get("class", "").startswith(f"mark-{kind} role-mark")]
    return sum(len(list(group)) for group in wanted)


@pytest.mark.parametrize(
    "figure, suffix",
    [*((figure, ".svg") for figure in FIGURES), ("accuracy", ".png"), ("accuracy", ".html")],
)
def test_the_same_table_gives_the_same_bytes_and_stays_as_it_was(tables, figure, suffix):
    given = [frame.copy() for frame in tables[figure]]
    draw = getattr(figures, figure)
    first, again = (render(draw(*given), suffix) for _ in range(2))
    assert first == again and len(first) > 1000
    for frame, copy in zip(tables[figure], given, strict=True):
        pd.testing.assert_frame_equal(frame, copy)


@pytest.mark.parametrize("figure", FIGURES)
def test_html_loads_nothing_from_elsewhere(tables, figure):
    page = render(getattr(figures, figure)(*tables[figure]), ".html").decode()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert not re.search(r"""(from|import)\s*\(?\s*["']https?://""", page)
    assert not re.search(r"@import|url\(\s*[\"']?https?:", page)


@pytest.mark.parametrize("figure", FIGURES)
def test_an_empty_table_says_so(tables, figure):
    assert "The table has no rows." in svg_of(figure, tables[figure][0][:0])


def test_an_unknown_form_is_refused(tables):
    with pytest.raises(ValueError, match=r"'\.pdf'.*\.svg, \.png or \.html"):
        render(figures.masks(*tables["masks"]), ".pdf")


@given(st.lists(st.text("ab3", min_size=1, max_size=20), min_size=1).map("-".join))
def test_a_long_name_is_broken_after_hyphens_alone(name):
    lines = in_short_lines(name, 13).split("|")
    assert "".join(lines) == name
    assert all(len(line) <= 13 or "-" not in line[:-1] for line in lines)
    for before, after in pairwise(lines):  # no line has room for more
        assert before.endswith("-") and len(before + after.partition("-")[0]) >= 13


# ---- accuracy and recovery --------------------------------------------------------------------


def test_every_condition_is_a_point_of_accuracy(tables):
    per_task, chance = tables["accuracy"]
    svg = svg_of("accuracy", per_task, chance)
    assert marks(svg, "symbol") == len(per_task)
    assert "full_bidir (leaks)" in svg and "(trained on a leak)" in svg
    assert "not measured" not in svg


def test_chance_is_drawn_where_it_is_known(tables):
    per_task, chance = tables["accuracy"]
    lines = [marks(svg_of("accuracy", per_task, c), "rule") for c in (None, chance[:1], chance)]
    # of one task alone there is no macro to draw it for
    assert lines == [lines[0], lines[0] + 1, lines[0] + 3]


def test_an_accuracy_that_is_missing_is_shown_as_such(tables):
    per_task = tables["accuracy"][0].copy()
    per_task.loc[::4, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    svg = svg_of("accuracy", per_task)
    assert marks(svg, "symbol") == len(per_task) and "not measured" in svg


def test_no_mask_is_said_to_leak_unless_it_does(tables):
    per_task = tables["accuracy"][0].assign(eval_leaks=False, train_leaks=False)
    svg = svg_of("accuracy", per_task)
    assert not [w for w in ("(leaks)", "(trained on a leak)", "Leaks:") if w in svg]


def test_every_row_under_an_ablated_mask_is_a_point_of_recovery(tables):
    (recovery,) = tables["recovery"]
    bounds = recovery[["recovered_low", "recovered_high"]].clip(-1, 2)  # no triangles to count
    recovery = recovery.assign(**bounds)
    ablated = recovery[recovery["mask"] != "causal"]
    assert set(ablated.recovered_status) == {"estimable", "not_estimable"}
    svg = svg_of("recovery", recovery)
    assert marks(svg, "symbol") == len(ablated)
    for words in ("not estimable", "full_bidir (leaks)", "(trained on a leak)", "all seeds"):
        assert words in svg


def test_a_mean_of_seeds_that_disagree_is_a_square_beside_its_seeds(tables):
    (recovery,) = tables["recovery"]
    svg = svg_of("recovery", recovery.assign(seeds_disagree=False))
    assert "all seeds, which disagree" not in svg
    apart = recovery.assign(seeds_disagree=recovery.seed.astype(str) == "all")
    told = svg_of("recovery", apart)
    assert "all seeds, which disagree" in told and marks(told, "symbol") == marks(svg, "symbol")


def test_what_leaves_the_axis_ends_in_a_triangle(tables):
    recovery = tables["recovery"][0].copy()
    inside = marks(svg_of("recovery", recovery), "symbol")
    chosen = recovery.index[recovery.recovered_status == "estimable"][0]
    recovery.loc[chosen, ["recovered_low", "recovered_high"]] = [-8.0, 9.0]
    svg = svg_of("recovery", recovery)
    assert marks(svg, "symbol") == inside + 2 and "goes on beyond the axis" in svg
    recovery.loc[chosen, "recovered"] = 8.5  # the point itself becomes the triangle
    assert marks(svg_of("recovery", recovery), "symbol") == inside + 2


# ---- curves -----------------------------------------------------------------------------------


def test_every_loss_but_those_of_batches_is_a_point_and_every_event_is_told(tables):
    (curves,) = tables["curves"]
    svg = svg_of("curves", curves)
    measured = curves[["eval_loss", "probe_loss_train_mask", "probe_loss_causal"]].notna().sum()
    not_finite = (curves.event == "not finite").sum()
    assert not_finite == 1 and marks(svg, "symbol") == measured.sum() + not_finite
    for words in ("stopped: max_steps", "stopped: leak_alarm", "stopped: non_finite", "not finite"):
        assert svg.count(f">{words}<") == 1
    assert svg.count(">resumed<") == 2
    assert "trained under full_bidir" in svg and "(trained on a leak)" in svg


def test_a_curve_without_probes_takes_those_of_its_summary():
    probes = {"probe_loss_train_mask": 0.01, "probe_loss_causal": 2.0}
    summary = {"seed": 1, "steps": 5, "stop_reason": "plateau", "train_leaks": True} | probes
    summary["recipe"] = {"train_mask": "full_bidir"}
    made = curves_table("t", [("3B-leaky", summary, [{"step": 5, "loss": 1.0}], [])])
    assert made.event.tolist()[-1] == "stopped: plateau"
    assert made[list(probes)].dropna().values.tolist() == [[0.01, 2.0]]
    logged = [{"step": 5, "eval_loss": 1.0} | probes]
    made = curves_table("t", [("3B-leaky", summary | {"probe_loss_causal": 9.0}, logged, [])])
    assert made.probe_loss_causal.dropna().tolist() == [2.0]


# ---- flips ------------------------------------------------------------------------------------


def test_every_pattern_is_a_bar_of_flips(tables):
    (flips,) = tables["flips"]
    svg = svg_of("flips", flips)
    assert marks(svg, "rect") == len(flips)
    assert "full_bidir (leaks)" in svg and "(trained on a leak)" in svg


# ---- masks ------------------------------------------------------------------------------------


def test_every_allowed_cell_is_drawn_whatever_its_tokens_are(tables):
    (frame,) = tables["masks"]
    assert set(frame.query_token) == {"null", "|"}
    svg = svg_of("masks", frame)
    assert marks(svg, "rect") == len(frame)
    assert svg.count(">full_bidir (leaks)<") == 1 and ">prefill_bidir<" in svg


@pytest.fixture(scope="module")
def item():
    from transformers import AutoTokenizer

    from ablation.model.mask_cells import mask_cells

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "resources/micro/base")
    prompt = "Question: The shelf holds the key. Where is the key?\nAnswer:"
    choices = ["Find the key in the shelf.", "Find the key."]
    return tokenizer, prompt, choices, mask_cells(tokenizer, prompt, choices)


def test_cells_are_those_of_the_rows_that_are_scored(item):
    from ablation.scoring.masked_lm import MaskedLM
    from tests.support.tiny import tiny_model

    tokenizer, prompt, choices, made = item
    lm = MaskedLM(tiny_model("llama", vocabulary=len(tokenizer)), tokenizer)
    pairs = [lm._encode_pair(prompt, f" {choice}") for choice in choices]
    shared = pairs[0][0] + [t for _, continuation in pairs for t in continuation[:-1]]
    alone = pairs[0][0] + pairs[0][1]
    for mask, ids in zip(MASKS, (shared, shared, alone), strict=True):
        own = made[(made["mask"] == mask) & (made["query"] == made.key)].sort_values("key")
        assert own.key_token.tolist() == [tokenizer.decode([i]) for i in ids]


def test_only_the_leaking_mask_shows_what_is_to_be_predicted(item):
    tokenizer, _, choices, made = item
    why = {mask: set(rows.why) for mask, rows in made.groupby("mask")}
    assert why["causal"] == {"past"} and why["prefill_bidir"] == {"past", "later prompt"}
    targets = made[made.why == "own target"]
    assert set(targets["mask"]) == {"full_bidir"} and (targets.key == targets["query"] + 1).all()
    answer = tokenizer(f" {choices[0]}", add_special_tokens=False)["input_ids"]
    assert targets.key_token.tolist() == [tokenizer.decode([i]) for i in answer]


def test_a_choice_never_sees_another(item):
    *_, made = item
    parts = made[["query_part", "key_part"]]
    between = made[(parts != "prompt").all(axis=1) & (made.query_part != made.key_part)]
    assert between.empty and {"choice 1", "choice 2"} <= set(made.key_part)


class Tags(HTMLParser):
    """The names of the tags of a page, in their order."""

    def __init__(self, page):
        super().__init__()
        self.names = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)


@pytest.mark.parametrize("token", ["</script><img src=x onerror=alert(1)>", "<!--<script>"])
def test_no_token_ends_the_script_of_a_page(token):
    """A browser reads a script up to `</script>`, whatever text of the script that stands in."""
    plain, hostile = (
        render(figures.masks(cells().replace({"null": text})), ".html").decode()
        for text in ("null", token)
    )
    assert Tags(hostile).names == Tags(plain).names and hostile.rstrip().endswith("</html>")
    assert "<!--" not in hostile[hostile.index("const spec = ") :]
    assert token.replace("<", r"\u003c") in hostile


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_a_token_of_control_characters_is_drawn(suffix):
    """XML allows none of them, and vl-convert would end this process."""
    text = "a\x00\x1b\ufffe\x7f"
    drawn = render(figures.masks(cells().replace({"null": text})), suffix)
    if suffix == ".svg":
        assert r"a\x00\x1b\xfffe" in "".join(ElementTree.fromstring(drawn).itertext())
