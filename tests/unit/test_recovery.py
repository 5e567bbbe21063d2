"""Promises of the tables: definitions hold, leaks and unequal conditions are always labelled."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.conditions import Condition, UnpairedItems, comparable, per_task_table
from ablation.metrics import item_correct
from ablation.names import METRICS
from ablation.recovery import COLUMNS, CONTRAST_COLUMNS, WORDS, study_tables, table
from ablation.statistics import holm, mcnemar

TASKS = ("a", "b")
CONFIG = {
    "study": "t",
    "metric": "acc",
    "statistics": {"confidence": 0.95},
    "criteria": {"retention": 0.8, "gain": 0.05},
}


def condition(share, mask="causal", recipe=None, seed=None, n=200, shift=0, rng=None, **changes):
    """A condition that gets the first `share` of n items per task right, or with `rng` any."""
    right = {}
    for t in TASKS:
        answers = np.arange(n) < share * n if rng is None else rng.random(n) < share
        right[t] = pd.Series(answers.astype(int), index=[f"{t}{i + shift}" for i in range(n)])
    fields = {
        "stage": "s",
        "mask": mask,
        "recipe": recipe,
        "seed": seed,
        "train_leaks": False,
        "eval_leaks": mask == "full_bidir",
        "circumstances": {"gpu": None, "dtype": "float32"},
        "manifest": f"{recipe}{seed}{mask}",
        "correct": dict.fromkeys(METRICS, right),
        "truncated": {},
    }
    return Condition(**fields | changes)


def study(base=0.9, ablated=0.5, after=0.8, other=0.55, side=0.85):
    conditions = [condition(base), condition(ablated, "prefill_bidir")]
    for recipe, share in (("3A", other), ("3B", after)):
        for seed in (1, 2):
            conditions.append(condition(share, "prefill_bidir", recipe, seed))
            conditions.append(condition(side, "causal", recipe, seed))
    return conditions


def random_study(seed, n=60):
    """Two recipes of three seeds under an ablated mask and causal; no two conditions alike."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.2, 1, size=4)
    conditions = [condition(share[0], n=n, rng=rng)]
    conditions.append(condition(share[1], "prefill_bidir", n=n, rng=rng))
    for recipe, right in (("3A", share[2]), ("3B", share[3])):
        for s in (1, 2, 3):
            for mask in ("prefill_bidir", "causal"):
                conditions.append(condition(right, mask, recipe, s, n=n, rng=rng))
    return conditions


def row_of(frame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column].astype(str) == str(value)]
    assert len(frame) == 1
    return frame.iloc[0]


def test_columns_are_the_promised_ones_and_numbers_are_numbers():
    frame = table(study_tables(study(), CONFIG)[0])
    assert list(frame.columns) == COLUMNS
    for column in set(COLUMNS) - WORDS - {c for c in COLUMNS if c.endswith("_manifest")}:
        assert pd.api.types.is_numeric_dtype(frame[column]), column


def test_one_row_a_recipe_seed_mask_and_task():
    frame = table(study_tables(study(), CONFIG)[0])
    keys = ["recipe", "seed", "mask", "task"]
    assert not frame.duplicated(keys).any()
    assert len(frame) == 2 * 3 * 2 * (len(TASKS) + 1)


@settings(max_examples=25, deadline=None)
@given(*[st.integers(0, 20).map(lambda k: k / 20) for _ in range(4)])
def test_definitions_hold_in_every_row(base, ablated, after, side):
    frame = table(study_tables(study(base, ablated, after, side=side), CONFIG)[0])
    masked, causal = frame[frame["mask"] != "causal"], frame[frame["mask"] == "causal"]
    close = {"atol": 1e-8, "equal_nan": True}
    assert np.allclose(masked.damage, masked.ablated - masked.baseline, **close)
    assert np.allclose(masked.gain, masked.after - masked.ablated, **close)
    assert np.allclose(causal.side_effect, causal.after - causal.baseline, **close)
    assert masked.side_effect.isna().all()
    assert causal[["ablated", "damage", "gain", "recovered", "recovered_status"]].isna().all().all()
    defined = frame[frame.baseline > 0]
    assert np.allclose(defined.retention, defined.after / defined.baseline, **close)
    assert (frame.recovery_ratio.dropna() == frame.retention.dropna()).all()
    estimable = masked[masked.recovered_status == "estimable"]
    lost = estimable.baseline - estimable.ablated
    assert np.allclose(estimable.recovered, estimable.gain / lost, atol=1e-6)
    assert (estimable.recovered_low <= estimable.recovered_high).all()
    refused = masked[masked.recovered_status == "not_estimable"]
    assert refused[["recovered", "recovered_low", "recovered_high"]].isna().all().all()


@pytest.mark.parametrize("ablated", [0.9, 0.95, 0.895])
def test_nothing_lost_means_nothing_to_recover(ablated):
    frame = table(study_tables(study(0.9, ablated), CONFIG)[0])
    masked = frame[frame["mask"] == "prefill_bidir"]
    assert (masked.recovered_status == "not_estimable").all()


def test_criteria_need_retention_and_gain():
    frame = table(study_tables(study(0.9, 0.5, 0.8, other=0.55), CONFIG)[0])
    assert row_of(frame, recipe="3B", seed="all", mask="prefill_bidir", task="macro").criteria_met
    assert not row_of(
        frame, recipe="3A", seed="all", mask="prefill_bidir", task="macro"
    ).criteria_met


def test_contrast_is_the_difference_of_the_two_recoveries():
    recovery, contrasts = study_tables(study(0.9, 0.5, 0.8, other=0.6), CONFIG)
    wanted = {"seed": "all", "mask": "prefill_bidir", "task": "macro"}
    rows = [row_of(table(recovery), recipe=r, **wanted) for r in ("3A", "3B")]
    contrast = row_of(pd.DataFrame(contrasts), recipe="3B", against="3A", **wanted)
    difference = rows[1].recovered - rows[0].recovered
    assert math.isclose(contrast.recovered_difference, difference, abs_tol=1e-8)


def test_a_leak_in_scoring_or_training_is_in_every_row_that_used_it():
    conditions = [condition(0.9), condition(0.5, "full_bidir")]
    conditions += [
        condition(0.6, m, "3B-leaky", 1, train_leaks=True) for m in ("causal", "full_bidir")
    ]
    conditions += [condition(0.7, m, "3B", 1) for m in ("causal", "full_bidir")]
    recovery, contrasts = study_tables(conditions, CONFIG)
    frame = table(recovery)
    assert (frame.train_leaks == (frame.recipe == "3B-leaky")).all()
    assert (frame.eval_leaks == (frame["mask"] == "full_bidir")).all()
    frame = table(contrasts, CONTRAST_COLUMNS)
    assert len(frame) and frame.train_leaks.all()  # one of the two recipes is the leaky one
    assert (frame.eval_leaks == (frame["mask"] == "full_bidir")).all()


def test_unequal_circumstances_are_named():
    conditions = study()
    conditions[0] = condition(0.9, circumstances={"gpu": "H100", "dtype": "bfloat16"})
    frame = table(study_tables(conditions, CONFIG)[0])
    assert (frame.comparable == "false: different dtype, gpu").all()
    assert comparable(conditions[1:]) == "true"


def test_conditions_on_other_items_are_not_paired():
    conditions = study()
    conditions[1] = condition(0.5, "prefill_bidir", shift=1)
    with pytest.raises(UnpairedItems, match="1 documents of the first are missing"):
        study_tables(conditions, CONFIG)


def test_a_document_that_occurs_twice_is_refused():
    for twice in (0, 1, 3):
        conditions = study()
        right = {t: pd.concat([x, x[:1]]) for t, x in conditions[twice].correct["acc"].items()}
        conditions[twice] = replace(conditions[twice], correct=dict.fromkeys(METRICS, right))
        with pytest.raises(UnpairedItems, match="occurs twice"):
            study_tables(conditions, CONFIG)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_damage_is_one_number_whatever_recipe_and_seed_the_row_is_of(seed):
    frame = table(study_tables(random_study(seed), CONFIG)[0])
    masked = frame[frame["mask"] == "prefill_bidir"]
    damage = ["baseline", "ablated", "damage", "damage_low", "damage_high", "damage_p"]
    for _, rows in masked.groupby("task"):
        assert len(rows) == 2 * 4
        assert len(rows[damage].drop_duplicates()) == 1


def test_p_of_damage_is_exact_and_adjusted_over_tasks_in_every_row():
    conditions = random_study(5)
    b, a = (c.correct["acc"] for c in conditions[:2])
    expected = dict(zip(TASKS, holm([mcnemar(b[t], a[t]) for t in TASKS]), strict=True))
    frame = table(study_tables(conditions, CONFIG)[0])
    for row in frame[frame["mask"] == "prefill_bidir"].itertuples():
        if row.task in TASKS:
            assert row.damage_p == pytest.approx(expected[row.task], rel=1e-5)


def test_p_of_one_seed_is_exact_and_adjusted_over_tasks():
    conditions = random_study(6)
    frame = table(study_tables(conditions, CONFIG)[0])
    found = {(c.recipe, c.seed, c.mask): c.correct["acc"] for c in conditions}
    for mask, before, column in (
        ("prefill_bidir", found[None, None, "prefill_bidir"], "gain_p"),
        ("causal", found[None, None, "causal"], "side_effect_p"),
    ):
        after = found["3B", 2, mask]
        expected = holm([mcnemar(before[t], after[t]) for t in TASKS])
        rows = [row_of(frame, recipe="3B", seed=2, mask=mask, task=t) for t in TASKS]
        assert [r[column] for r in rows] == pytest.approx(expected, rel=1e-5)


def test_a_tiny_p_does_not_become_zero():
    frame = table(study_tables(study(0.99, 0.01), CONFIG)[0])
    p = frame[[c for c in frame if c.endswith("_p")]].stack().dropna()
    assert (p > 0).all() and p.min() < 1e-40


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_order_of_items_and_of_conditions_changes_nothing(seed):
    conditions, rng = random_study(seed), np.random.default_rng(seed)
    shuffled = []
    for c in conditions:
        right = {t: x.sample(frac=1, random_state=rng) for t, x in c.correct["acc"].items()}
        shuffled.append(replace(c, correct=dict.fromkeys(METRICS, right)))
    rng.shuffle(shuffled)
    for columns, one, other in zip(
        (COLUMNS, CONTRAST_COLUMNS),
        study_tables(conditions, CONFIG),
        study_tables(shuffled, CONFIG),
        strict=True,
    ):
        pd.testing.assert_frame_equal(table(one, columns), table(other, columns), rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_macro_is_the_mean_of_the_tasks_in_every_row(seed):
    frame = table(study_tables(random_study(seed), CONFIG)[0])
    numbers = ["baseline", "ablated", "after", "damage", "gain", "side_effect"]
    for _, rows in frame.groupby(["recipe", "seed", "mask"]):
        tasks, macro = rows[rows.task != "macro"], rows[rows.task == "macro"]
        assert np.allclose(tasks[numbers].mean(), macro[numbers].iloc[0], equal_nan=True, atol=1e-8)
        assert macro.n.item() == tasks.n.sum()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_contrasts_turn_round_with_the_recipes(seed):
    conditions = random_study(seed)
    names = {"3A": "3B", "3B": "3A", None: None}
    swapped = [replace(c, recipe=names[c.recipe]) for c in conditions]
    there, back = (
        table(study_tables(c, CONFIG)[1], CONTRAST_COLUMNS) for c in (conditions, swapped)
    )
    name = "recovered_difference"
    assert np.allclose(there[name], -back[name], equal_nan=True, atol=1e-8)
    assert np.allclose(there[f"{name}_low"], -back[f"{name}_high"], equal_nan=True, atol=1e-8)
    assert (there.recovered_status == back.recovered_status).all()


def test_a_study_of_one_seed_says_the_same_over_all_of_them():
    conditions = [c for c in random_study(7) if c.seed in (None, 1)]
    for columns, rows in zip(
        (COLUMNS, CONTRAST_COLUMNS), study_tables(conditions, CONFIG), strict=True
    ):
        frame = table(rows, columns).drop(columns=["after_manifest"], errors="ignore")
        one, every = (frame[frame.seed.astype(str) == s] for s in ("1", "all"))
        pd.testing.assert_frame_equal(
            one.drop(columns="seed").reset_index(drop=True),
            every.drop(columns="seed").reset_index(drop=True),
        )
        assert len(one)


def test_rows_do_not_move_when_others_come_and_go():
    both = table(study_tables(study(), CONFIG)[0])
    alone = table(study_tables([c for c in study() if c.recipe != "3A"], CONFIG)[0])
    rows = [f[(f.recipe == "3B") & (f.seed == 1)].reset_index(drop=True) for f in (both, alone)]
    pd.testing.assert_frame_equal(*rows)
    assert len(rows[0])


def choices(loglikelihoods, gold=0, lengths=None):
    k = len(loglikelihoods)
    lengths = lengths or [1] * k
    return pd.DataFrame(
        {
            "task": "a",
            "doc_id": 0,
            "doc_hash": "h",
            "choice": range(k),
            "gold": gold,
            "loglikelihood": loglikelihoods,
            "tokens": lengths,
            "characters": lengths,
            "bytes": lengths,
            "truncated": False,
        }
    )


def test_lengths_decide_where_a_metric_says_so():
    rows = choices([-4.0, -3.0], gold=0, lengths=[4, 1])
    assert item_correct(rows, "acc")["a"].item() == 0
    for metric in ("acc_norm", "acc_bytes", "acc_token"):
        assert item_correct(rows, metric)["a"].item() == 1


def test_of_equal_choices_the_first_wins():
    assert item_correct(choices([-1.0, -1.0], gold=0), "acc")["a"].item() == 1
    assert item_correct(choices([-1.0, -1.0], gold=1), "acc")["a"].item() == 0


@pytest.mark.parametrize("scores", [[np.nan, -1.0], [np.nan, np.nan]])
def test_a_score_that_is_no_number_makes_no_item_right(scores):
    """Left out, it would leave the other choice as the best one."""
    with pytest.raises(ValueError, match="log-likelihoods are NaN, the first in a, doc_id 0, choi"):
        item_correct(choices(scores, gold=1), "acc")


def test_rows_may_come_in_any_order():
    frames = [
        choices([-3.0, -1.0, -2.0], gold=1).assign(doc_id=i, doc_hash=str(i)) for i in range(5)
    ]
    rows = pd.concat(frames)
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(
        item_correct(rows, "acc")["a"], item_correct(shuffled, "acc")["a"]
    )


def test_per_task_table_has_the_macro_as_unweighted_mean():
    frame = per_task_table("t", study(), "acc", 0.95)
    base = frame[frame.recipe.isna() & (frame["mask"] == "causal")]
    macro = base[base.task == "macro"].accuracy.item()
    assert macro == pytest.approx(base[base.task != "macro"].accuracy.mean())
