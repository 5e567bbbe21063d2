"""Promises of the figure of interventions: what each costs and gives back, whatever is known."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ablation.analysis.conditions import Condition
from ablation.analysis.recovery import study_tables, table
from ablation.report import figures
from ablation.report.charts import mask_names, read, render
from ablation.vocabulary.metrics import METRICS
from tests.support.settings import recovery_settings


def condition(rate, name="causal", recipe=None, seed=None, n=200):
    """A condition with the first `rate` of n items right; seeds differ by one item."""
    right = (np.arange(n) < rate * n + (seed or 0)).astype(int)
    answers = {"a": pd.Series(right, index=[f"a{i}" for i in range(n)])}
    return Condition(
        *("s", name, recipe, seed, False, name == "full_bidir", {}, "m"),
        correct=dict.fromkeys(METRICS, answers),
        truncated={},
    )


@pytest.fixture
def recovery(tmp_path):
    """`thin` costs much and comes back; `heads` costs nothing, so nothing can come back."""
    conditions = [condition(0.9), condition(0.5, "thin"), condition(0.9, "heads")]
    for seed in (1, 2):
        conditions += [condition(0.9, "causal", "3A", seed), condition(0.6, "thin", "3A", seed)]
        conditions += [condition(0.9, "heads", "3A", seed), condition(0.8, "thin", "3B-thin", seed)]
        conditions += [condition(0.9, "heads", "3B-heads", seed)]
        conditions += [condition(0.7, "thin", "3B-thin-longer", seed)]
    controls = dict.fromkeys(["3B-thin", "3B-heads", "3B-thin-longer"], "3A")
    rows, _ = study_tables(conditions, recovery_settings(controls=controls))
    table(rows).to_csv(tmp_path / "recovery.csv", index=False)
    return read(tmp_path / "recovery.csv")


def drawn(recovery):
    spec = figures.interventions(recovery).to_dict()
    return [row for rows in spec["datasets"].values() for row in rows]


def test_each_intervention_is_one_line_of_the_recipe_that_trained_under_it(recovery):
    rows = drawn(recovery)
    assert {row["recipe"] for row in rows if "recipe" in row} == {"3B-thin", "3B-heads"}
    points = {
        (r["line"], r["point"][0]): r["accuracy"]
        for r in rows
        if r.get("seed") == "all" and "point" in r
    }
    assert points["thin", "A"] == 0.5 and points["thin", "P"] == pytest.approx(0.8075)
    assert points["thin", "D"] == pytest.approx(0.6075)  # the control, damaged after training


def test_what_costs_nothing_is_said_to_be_nil_and_what_costs_much_has_stars(recovery):
    labels = {row["line"]: row["label"] for row in drawn(recovery) if "label" in row}
    assert labels == {"thin": "-0.40 ***", "heads": "+0.00 ns"}
    known = {r["line"]: r["known"] for r in drawn(recovery) if "known" in r and r["seed"] == "all"}
    assert known == {"thin": True, "heads": False}


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_it_is_drawn_in_every_form(recovery, suffix):
    chart = figures.interventions(recovery)
    assert "NaN" not in json.dumps(chart.to_dict())
    assert len(render(chart, suffix)) > 10_000


def test_a_table_without_a_training_under_anything_says_so(recovery):
    rows = recovery[recovery.recipe == "3A"]
    assert "The table has no rows." in render(figures.interventions(rows), ".svg").decode()


def test_the_other_figures_name_interventions_behind_the_masks(recovery):
    assert list(mask_names(recovery)) == ["causal", "heads", "thin"]
    svg = render(figures.recovery(recovery), ".svg").decode()
    assert re.search(r">thin<", svg) and re.search(r">heads<", svg)
