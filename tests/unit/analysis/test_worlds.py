"""Promises about several worlds: intervals hold the population's mean and a new world's value."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.analysis.worlds import pooled_rows, random_effects, world_rows

RECOVERED = ("recovered", "recovered_low", "recovered_high")
VALUES = st.lists(st.floats(-1, 2), min_size=3, max_size=12)


@given(VALUES, st.floats(1e-4, 0.1))
def test_equal_errors_give_the_plain_mean_and_students_interval(values, variance):
    found = random_effects(values, [variance] * len(values), 0.95)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.between**2 == pytest.approx(max(0, np.var(values, ddof=1) - variance), abs=1e-6)
    new, mean = found.new_world, found.interval
    assert new.low <= mean.low + 1e-9 and mean.high - 1e-9 <= new.high


@given(VALUES, st.floats(-1, 1), st.floats(0.5, 3))
def test_a_shift_and_a_scale_of_all_worlds_are_those_of_the_result(values, shift, scale):
    one = random_effects(values, [0.01] * len(values), 0.95)
    other = random_effects(
        [shift + scale * v for v in values], [0.01 * scale**2] * len(values), 0.95
    )
    assert other.mean == pytest.approx(shift + scale * one.mean, abs=1e-6)
    assert other.new_world.low == pytest.approx(shift + scale * one.new_world.low, abs=1e-4)


@pytest.mark.parametrize("between", [0.0, 0.1])
def test_intervals_hold_the_mean_and_a_new_world(between):
    rng = np.random.default_rng(round(100 * between))
    errors = np.array([0.02, 0.03, 0.03, 0.05, 0.05, 0.08, 0.08, 0.1])
    held = np.zeros(2)
    for _ in range(1000):
        truths = 0.8 + between * rng.standard_normal(9)
        values = truths[:8] + errors * rng.standard_normal(8)
        found = random_effects(values, errors**2, 0.95)
        held += [
            found.interval.low <= 0.8 <= found.interval.high,
            found.new_world.low <= truths[8] <= found.new_world.high,
        ]
    assert (held >= 920).all(), held


def test_worlds_that_agree_by_luck_are_no_surer_than_their_errors():
    found = random_effects([0.6, 0.6, 0.6, 0.6], [0.01] * 4, 0.95)
    assert found.interval.high - 0.6 == pytest.approx(3.182446 * 0.1 / 2, abs=1e-6)
    assert found.new_world.high - 0.6 == pytest.approx(4.302653 * 0.1 / 2, abs=1e-6)


def test_two_worlds_have_no_interval():
    assert random_effects([0.8, 0.9], [0.01, 0.01], 0.95) is None


def test_worlds_are_read_from_their_recovery_tables():
    row = {"recipe": "3B", "mask": "prefill_bidir", "seed": "all", "task": "macro"}
    net = dict.fromkeys(("net_recovered", "net_recovered_low", "net_recovered_high"))
    tables = {
        world: pd.DataFrame(
            [
                row | net | {"recovered": r, "recovered_low": r - 0.1, "recovered_high": r + 0.1},
                row | net | {"seed": "31"} | dict.fromkeys(RECOVERED, 9.0),
            ]
        )
        for world, r in (("b", 0.9), ("a", 0.7), ("c", 0.8))
    }
    rows = world_rows(tables)
    assert rows.world.tolist() == ["a", "b", "c"] and rows.value.tolist() == [0.7, 0.9, 0.8]
    (pooled,) = pooled_rows(rows, 0.95).itertuples()
    assert pooled.worlds == 3 and pooled.mean == pytest.approx(0.8)
    assert pooled.new_world_low < pooled.low < 0.7 and 0.9 < pooled.high < pooled.new_world_high
