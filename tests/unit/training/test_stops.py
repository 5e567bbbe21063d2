"""Promises of early stopping: each stop has its reason, and none comes before its first step."""

import math

import pytest

from ablation.training.early_stopping import Stops
from tests.support.small_training import stop_rules

NO_LEARNING = {"after_steps": 150, "min_improvement": 0.08}
PLATEAU = {"patience": 4, "min_delta": 0.003, "min_steps": 600}
LEAK = {"ratio": 0.2, "min_gap": 0.3, "on_leak": "stop"}


def stops(**rules):
    chosen = stop_rules(**rules)
    return Stops(chosen.no_learning, chosen.plateau, chosen.leak)


def loss(step, value, grad_norm=1.0):
    return {"step": step, "loss": value, "grad_norm": grad_norm}


def evaluation(step, value, train_mask=1.0, causal=1.0):
    probes = {"probe_loss_train_mask": train_mask, "probe_loss_causal": causal}
    return {"step": step, "eval_loss": value} | probes


def first_stop(watch, entries):
    return next((entry["step"] for entry in entries if watch.observe(entry)), None)


def test_no_learning_waits_for_its_step():
    watch = stops(no_learning=NO_LEARNING)
    assert first_stop(watch, [loss(s, 2.0) for s in range(10, 300, 10)]) == 150
    assert watch.reason == "no_learning"


def test_learning_by_more_than_the_threshold_goes_on():
    entries = [loss(10, 2.0)] + [loss(s, 1.9) for s in range(20, 600, 10)]
    assert first_stop(stops(no_learning=NO_LEARNING), entries) is None


def test_a_plateau_counts_nothing_before_its_minimum_step():
    watch = stops(plateau=PLATEAU)
    assert first_stop(watch, [evaluation(s, 1.5) for s in range(100, 2000, 100)]) == 900
    assert watch.reason == "plateau"


def test_a_gain_of_min_delta_starts_the_count_again():
    values = {1000: 1.49, 800: 1.495}
    entries = [
        evaluation(s, min([1.5, *(v for k, v in values.items() if s >= k)]))
        for s in range(100, 3000, 100)
    ]
    assert first_stop(stops(plateau=PLATEAU), entries) == 1400


def test_gains_below_min_delta_do_not_count():
    entries = [evaluation(s, 1.5 - s * 1e-6) for s in range(100, 3000, 100)]
    assert first_stop(stops(plateau=PLATEAU), entries) == 900


@pytest.mark.parametrize(
    "entry",
    [
        loss(5, math.nan),
        loss(5, math.inf),
        loss(5, 1.0, math.nan),
        evaluation(5, math.nan),
        evaluation(5, 1.0, train_mask=1.0, causal=math.nan),
        evaluation(5, 1.0, train_mask=math.nan, causal=1.0),
        evaluation(5, 1.0, train_mask=1.0, causal=math.inf),
    ],
)
@pytest.mark.parametrize("leak", [None, LEAK, LEAK | {"on_leak": "record"}])
def test_what_is_not_finite_stops_at_once_and_is_no_leak(entry, leak):
    watch = stops(leak=leak)
    assert watch.observe(entry) == "non_finite" and watch.leak_alarms == []


def test_a_leak_alarm_stops_or_is_recorded():
    entries = [evaluation(100, 1.0, 0.9, 1.0), evaluation(200, 1.0, 0.07, 1.023)]
    watch = stops(leak=LEAK)
    assert first_stop(watch, entries) == 200 and watch.reason == "leak_alarm"
    watch = stops(leak=LEAK | {"on_leak": "record"})
    assert first_stop(watch, entries) is None and watch.leak_alarms == [200]


def test_small_losses_are_no_leak():
    assert stops(leak=LEAK).observe(evaluation(100, 1.0, 0.001, 0.01)) is None


def test_the_first_reason_stays():
    watch = stops(plateau=PLATEAU)
    watch.observe(loss(5, math.nan))
    assert watch.observe(loss(10, 1.0)) == "non_finite"
