"""Promises of net recovery: the finetuned model against a control of the same training."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ablation.analysis.recovery import study_tables, table
from tests.support.settings import recovery_settings
from tests.unit.analysis.test_recovery import condition

CONFIG = recovery_settings(controls={"3B": "3A"})
MASK = "prefill_bidir"


def trained(recipe, seed, shares, rng, **facts):
    facts = {"steps": 250, "records": "r", "families": frozenset({"a"})} | facts
    pairs = zip(("causal", MASK), shares, strict=True)
    return [
        replace(condition(share, mask, recipe, seed, rng=rng), **facts) for mask, share in pairs
    ]


def study(rng, **facts):
    """B .9, A .5, C .95, D .6, P .8; `facts` are those of 3A."""
    conditions = [condition(0.9, rng=rng), condition(0.5, MASK, rng=rng)]
    for seed in (1, 2, 3):
        conditions += trained("3A", seed, (0.95, 0.6), rng, **facts)
        conditions += trained("3B", seed, (0.93, 0.8), rng)
    return conditions


def rows(conditions, recipe="3B", mask=MASK, **wanted):
    frame = table(study_tables(conditions, CONFIG)[0]).astype({"seed": str})
    for column, value in {"recipe": recipe, "mask": mask, **wanted}.items():
        frame = frame[frame[column] == value]
    return frame


@pytest.mark.parametrize("seed", ["1", "2", "3", "all"])
@pytest.mark.parametrize("task", ["a", "b", "macro"])
def test_it_is_the_share_of_the_gap_between_equally_trained_models(seed, task):
    conditions = study(np.random.default_rng(3))
    (row,) = rows(conditions, seed=seed, task=task).itertuples()
    means = {}
    for c in conditions:
        if c.recipe and seed in ("all", str(c.seed)):
            tasks = ["a", "b"] if task == "macro" else [task]
            values = [c.correct["acc"][t].mean() for t in tasks]
            means.setdefault((c.recipe, c.mask), []).append(np.mean(values))
    p, c, d = (np.mean(means[key]) for key in (("3B", MASK), ("3A", "causal"), ("3A", MASK)))
    assert row.control == "3A" and row.net_recovered_status == "estimable"
    assert (row.control_causal, row.control_ablated) == pytest.approx((c, d), abs=1e-9)
    assert row.net_recovered == pytest.approx((p - d) / (c - d), abs=1e-9)
    assert row.net_recovered_low < row.net_recovered < row.net_recovered_high


def test_a_control_that_finetuning_did_not_move_gives_the_published_ratio():
    rng = np.random.default_rng(4)
    base, ablated = condition(0.9, rng=rng), condition(0.5, MASK, rng=rng)
    conditions = [base, ablated]
    for seed in (1, 2):
        conditions += trained("3B", seed, (0.9, 0.8), rng)
        facts = {"recipe": "3A", "seed": seed, "steps": 250, "records": "r"}
        conditions += [replace(c, **facts) for c in (base, ablated)]
    found = rows(conditions)
    for end in ("", "_low", "_high"):
        np.testing.assert_allclose(found[f"net_recovered{end}"], found[f"recovered{end}"])


@pytest.mark.parametrize("facts", [{"steps": 240}, {"records": "other"}])
def test_a_training_with_other_records_or_steps_is_no_control(facts):
    found = rows(study(np.random.default_rng(5), **facts))
    assert set(found.net_recovered_status) == {"no_control"} and found.net_recovered.isna().all()
    assert found.control.isna().all() and found.recovered.notna().any()


def test_a_recipe_without_a_control_says_so_and_causal_rows_have_no_net_recovery():
    conditions = study(np.random.default_rng(6))
    assert set(rows(conditions, recipe="3A").net_recovered_status) == {"no_control"}
    causal = rows(conditions, mask="causal")
    assert causal.net_recovered.isna().all() and causal.net_recovered_status.isna().all()


def test_seeds_of_recipe_and_control_are_paired():
    """Seeds that raise P, C and D alike leave net recovery as it is, and its interval narrow."""
    rng = np.random.default_rng(7)
    conditions = [condition(0.9, rng=rng), condition(0.4, MASK, rng=rng)]
    for seed, lift in ((1, 0.0), (2, 0.1), (3, 0.2)):
        conditions += trained("3A", seed, (0.7 + lift, 0.3 + lift), None)
        conditions += trained("3B", seed, (0.7 + lift, 0.5 + lift), None)
    (row,) = rows(conditions, seed="all", task="macro").itertuples()
    assert row.net_recovered == pytest.approx(0.5, abs=1e-6)
    assert row.net_recovered_high - row.net_recovered_low < 0.3
    assert row.recovered_high - row.recovered_low > 0.6  # R depends on the seed's lift


def test_trained_and_held_out_tasks_have_macros_of_their_own():
    conditions = study(np.random.default_rng(8))
    found = rows(conditions, seed="all").set_index("task")
    assert found.exposure.to_dict() == {
        "a": "trained",
        "b": "held_out",
        "macro": "mixed",
        "macro_trained": "trained",
        "macro_held_out": "held_out",
    }
    for part, task in (("macro_trained", "a"), ("macro_held_out", "b")):
        same = ["n", "after", "damage", "gain", "recovered", "net_recovered", "control_causal"]
        pd.testing.assert_series_equal(
            found.loc[part, same], found.loc[task, same], check_names=False
        )
