"""Promises of the flips: every item has one of eight patterns, and shares add up to accuracies."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.analysis.conditions import Condition, UnpairedItems
from ablation.analysis.flips import COLUMNS, PATTERNS, flips_table
from ablation.vocabulary.protocols import MACRO

items = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=7, max_size=7)
)


def condition(right, mask="causal", recipe=None, seed=None, first=0, **leaks):
    """One task, `a`, whose answers are given, and one, `b`, of which two thirds are right."""
    answers = {"a": right, "b": [1, 1, 0]}
    correct = {
        task: pd.Series(values, [f"{task}{i + first}" for i in range(len(values))], dtype=int)
        for task, values in answers.items()
    }
    leaks = {"train_leaks": False, "eval_leaks": False} | leaks
    rest = {"circumstances": {}, "manifest": "m", "correct": {"acc": correct}, "truncated": {}}
    return Condition(stage="s", mask=mask, recipe=recipe, seed=seed, **leaks, **rest)


@settings(max_examples=20)
@given(items)
def test_every_item_has_one_pattern_of_before_under_and_after(right):
    """Of two recipes, one of them of two seeds; under causal nothing is ablated, nothing flips."""
    base, ablated, causal, *trained = right
    names = [("3B", 1), ("3B", 2), ("3A", 1)]
    after = dict(zip(names, trained, strict=False))
    conditions = [condition(a, "prefill_bidir", *name) for name, a in after.items()]
    conditions += [condition(base), condition(ablated, "prefill_bidir")]
    conditions += [condition(causal, "causal", "3B", 1)]
    found = flips_table("study", conditions, "acc")
    assert list(found.columns) == COLUMNS and set(found.study) == {"study"}
    assert set(found["mask"]) == {"prefill_bidir"}
    groups = found.groupby(["recipe", "seed"], sort=False)
    assert list(groups.groups) == sorted(after)
    for name, rows in groups:
        triples = zip(base, ablated, after[name], strict=True)
        words = ["".join("R" if right else "W" for right in triple) for triple in triples]
        counts = {"a": [words.count(p) for p in PATTERNS], "b": [1, 0, 0, 0, 0, 0, 0, 2]}
        counts[MACRO] = np.add(*counts.values())
        shares = {task: np.divide(counts[task], sum(counts[task])) for task in "ab"}
        shares[MACRO] = (shares["a"] + shares["b"]) / 2
        assert rows.task.unique().tolist() == ["a", "b", MACRO]
        for task, part in rows.groupby("task"):
            assert tuple(part.pattern) == PATTERNS
            assert part["items"].tolist() == list(counts[task])
            assert set(part.n) == {sum(counts[task])}
            assert part.share.tolist() == [round(share, 9) for share in shares[task]]


@pytest.mark.parametrize("leaky", range(4))
def test_a_leak_in_any_of_the_three_is_in_every_row(leaky):
    names = [(), ("prefill_bidir",), ("prefill_bidir", "3B", 1)]
    conditions = [condition([1], *n, eval_leaks=i == leaky) for i, n in enumerate(names)]
    if leaky == 3:
        conditions[2] = condition([1], *names[2], train_leaks=True)
    found = flips_table("t", conditions, "acc")
    assert set(found.eval_leaks) == {leaky < 3} and set(found.train_leaks) == {leaky == 3}


def test_flips_of_other_items_are_refused():
    conditions = [condition([1]), condition([0], "prefill_bidir")]
    conditions.append(condition([0], "prefill_bidir", "3B", 1, first=1))
    with pytest.raises(UnpairedItems):
        flips_table("t", conditions, "acc")
