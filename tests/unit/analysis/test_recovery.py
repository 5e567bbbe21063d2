"""Promises of the tables: definitions hold, leaks and unequal conditions are always labelled."""

import cProfile
import pstats
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.analysis.conditions import Condition, UnpairedItems, comparable, per_task_table
from ablation.analysis.recovery import CONTRAST_COLUMNS, WORDS, study_tables, table
from ablation.analysis.recovery_columns import COLUMNS
from ablation.analysis.statistics import holm, mcnemar, paired_means, wilson
from ablation.vocabulary.metrics import METRICS
from tests.support.settings import recovery_settings

TASKS = ("a", "b")
CONFIG = recovery_settings()


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


def random_study(seed, n=60, lost=0.0):
    """Two recipes of three seeds under an ablated mask and causal; no two conditions alike.

    The ablation costs at least about `lost`.
    """
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.2, 1, size=4)
    share[:2] = np.array([lost, 0]) + (1 - lost) * share[:2]
    conditions = [condition(share[0], n=n, rng=rng)]
    conditions.append(condition(share[1], "prefill_bidir", n=n, rng=rng))
    for recipe, right in (("3A", share[2]), ("3B", share[3])):
        for s in (1, 2, 3):
            for mask in ("prefill_bidir", "causal"):
                conditions.append(condition(right, mask, recipe, s, n=n, rng=rng))
    return conditions


def calls_of_tables(recipes):
    """How many functions `study_tables` calls for a sweep with this many recipes.

    The conditions have no tasks, so what is counted is the work to find which belong together.
    """
    facts = {"correct": dict.fromkeys(METRICS, {})}
    conditions = [condition(1, mask, **facts) for mask in ("causal", "prefill_bidir")]
    for name in ("3A", "3B", *(f"3B-lr{number}" for number in range(2, recipes))):
        for mask in ("causal", "prefill_bidir"):
            conditions.append(condition(1, mask, name, 1, **facts))
    with cProfile.Profile() as profile:
        study_tables(conditions, CONFIG)
    return pstats.Stats(profile).total_calls


def test_the_work_of_the_tables_grows_linearly_with_the_recipes_of_a_sweep():
    """Calls are counted, since seconds depend on what else the machine does."""
    assert calls_of_tables(250) < 6 * calls_of_tables(50)


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
    enough = (masked.retention >= 0.8 - 1e-12) & (masked.gain >= 0.05 - 1e-12)
    near = ((masked.retention - 0.8).abs() < 1e-8) | ((masked.gain - 0.05).abs() < 1e-8)
    assert ((masked.criteria_met == enough) | near).all() and causal.criteria_met.isna().all()
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


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_a_contrast_is_the_difference_of_two_recoveries(seed):
    recovery, contrasts = study_tables(random_study(seed, lost=0.7), CONFIG)
    recovery, contrasts = table(recovery), table(contrasts, CONTRAST_COLUMNS)
    keys = ["study", "seed", "mask", "task", "n"]
    names = {"recipe": "against", "after": "after_against", "recovered": "other"}
    own = recovery[[*keys, "recipe", "after", "recovered"]]
    both = contrasts.merge(own, on=[*keys, "recipe", "after"])
    other = own.rename(columns=names)
    both = both.merge(other, on=[*keys, "against", "after_against"])
    # three seeds and all of them; two tasks and their macro
    assert len(both) == len(contrasts) == 4 * 3
    known = both[both.recovered_status == "estimable"]
    assert len(known) and (known.recipe != known.against).all()
    assert np.allclose(known.recovered_difference, known.recovered - known.other, atol=1e-7)
    assert (known.recovered_difference_low < known.recovered_difference).all()
    assert (known.recovered_difference < known.recovered_difference_high).all()


def test_a_contrast_is_of_the_seeds_that_both_recipes_have():
    conditions = [c for c in random_study(8) if (c.recipe, c.seed) not in (("3A", 1), ("3B", 3))]
    contrasts = table(study_tables(conditions, CONFIG)[1], CONTRAST_COLUMNS)
    assert set(contrasts.seed.astype(str)) == {"2", "all"}
    one, every = (contrasts[contrasts.seed.astype(str) == s] for s in ("2", "all"))
    assert one.after.tolist() == every.after.tolist()


@pytest.mark.parametrize("leak", ["train_leaks", "eval_leaks"])
@pytest.mark.parametrize("leaky", range(6))
def test_a_leak_of_any_condition_is_in_the_rows_that_used_it_and_in_no_other(leak, leaky):
    conditions = [condition(0.9), condition(0.5, "prefill_bidir")]
    for seed in (1, 2):
        conditions += [condition(0.6, m, "3A", seed) for m in ("causal", "prefill_bidir")]
        conditions += [condition(0.7, m, "3B", seed) for m in ("causal", "prefill_bidir")]
    conditions[leaky] = replace(conditions[leaky], **{leak: True})
    told = {c.manifest for c in conditions if getattr(c, leak)}
    recovery, contrasts = study_tables(conditions, CONFIG)
    shown = ("baseline", "ablated", "after") if leak == "eval_leaks" else ("after",)
    frame = table([row for row in recovery if row["seed"] == 1])
    for row in frame.itertuples():
        used = {getattr(row, f"{name}_manifest") for name in shown}
        assert getattr(row, leak) == bool(used & told)
    every = table([row for row in recovery if row["seed"] == "all"])
    assert every[leak].tolist() == frame[leak].tolist()
    frame = table([row for row in contrasts if row["seed"] != 2], CONTRAST_COLUMNS)
    used = (0, 1, 3, 5) if leak == "eval_leaks" else (3, 5)
    assert len(frame) and (frame[leak] == (leaky in used)).all()


def test_every_row_names_the_conditions_that_it_was_made_of():
    frame = table(study_tables(random_study(9), CONFIG)[0]).astype(object)
    frame = frame.where(frame.notna(), None)
    for row in frame.itertuples():
        assert (row.study, row.baseline_manifest) == ("t", "NoneNonecausal")
        ablated = None if row.mask == "causal" else "NoneNoneprefill_bidir"
        after = None if row.seed == "all" else f"{row.recipe}{row.seed}{row.mask}"
        assert (row.ablated_manifest, row.after_manifest) == (ablated, after)


def test_a_rehearsal_says_in_every_row_that_it_means_nothing():
    frame = table(study_tables(study(), recovery_settings(rehearsal=True))[0])
    assert frame.comparable.str.startswith("false: random weights").all()


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


@pytest.mark.parametrize("mask", ["prefill_bidir", "causal"])
def test_over_seeds_p_and_interval_are_those_of_the_seeds_means(mask):
    conditions = random_study(10)
    fixed = [c for c in conditions if c.recipe is None and c.mask in ("causal", mask)]
    after = [c for c in conditions if (c.recipe, c.mask) == ("3B", mask)]
    columns = [[c] * len(after) for c in fixed] + [after]
    scores = [np.array([[c.correct["acc"][t] for c in row] for row in columns]) for t in TASKS]
    frame, last = table(study_tables(conditions, CONFIG)[0]), len(fixed)
    name = "side_effect" if mask == "causal" else "gain"
    single = [paired_means([s], 0.95).difference(last, last - 1) for s in scores]
    adjusted = [*holm([found.p for found in single]), None]
    single.append(paired_means(scores, 0.95).difference(last, last - 1))
    for task, found, p in zip((*TASKS, "macro"), single, adjusted, strict=True):
        row = row_of(frame, recipe="3B", seed="all", mask=mask, task=task)
        told = (row[name], row[f"{name}_low"], row[f"{name}_high"])
        assert told == pytest.approx((found.value, *found.interval), abs=1e-8)
        assert row[f"{name}_p"] == pytest.approx(found.p if p is None else p, rel=1e-5)


@given(st.lists(st.floats(1e-300, 1), min_size=1, max_size=5), st.floats(-1, 1))
def test_a_table_has_9_decimals_and_6_digits_of_p(p_values, gain):
    frame = table([{"gain": gain, "gain_p": p} for p in p_values])
    assert frame.gain.tolist() == [round(gain, 9)] * len(p_values)
    assert frame.gain_p.tolist() == [float(f"{p:.5e}") for p in p_values]


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


def test_per_task_rows_are_accuracies_with_wilsons_interval_and_a_macro_without():
    conditions = [replace(c, truncated={"b": 3}) for c in random_study(11)]
    frame = per_task_table("t", conditions, "acc", 0.9).set_index("task")
    frame = frame.astype(object).where(frame.notna(), None)
    assert len(frame) == 3 * len(conditions) and set(frame.study) == {"t"}
    for i, c in enumerate(conditions):
        rows = frame[3 * i : 3 * i + 3]
        for column in ("stage", "recipe", "seed", "mask", "train_leaks", "eval_leaks"):
            assert set(rows[column]) == {getattr(c, column)}, column
        for task in TASKS:
            right, row = c.correct["acc"][task], rows.loc[task]
            bounds = (row.accuracy_low, row.accuracy_high)
            assert bounds == pytest.approx(wilson(right.sum(), len(right), 0.9), abs=1e-8)
            assert row.accuracy == row.acc == pytest.approx(right.mean(), abs=1e-8)
            assert (row.n, row.truncated) == (len(right), 3 if task == "b" else 0)
        assert rows.loc["macro", ["accuracy_low", "accuracy_high"]].isna().all()
        assert rows.accuracy["macro"] == pytest.approx(rows.accuracy[list(TASKS)].mean(), abs=1e-8)
