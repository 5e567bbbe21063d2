"""Promises of published.csv: the printed digits come back, ours stand beside them and are named."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ablation.analysis.published import (
    COLUMNS,
    accuracies,
    as_printed,
    exact_accuracy,
    published_rows,
    side_by_side,
)
from ablation.analysis.recovery_columns import COLUMNS as RECOVERY_COLUMNS
from ablation.config.study import Criteria
from ablation.vocabulary.protocols import tasks_by_macro
from tests.support.settings import published_settings

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = json.loads((ROOT / "resources/published/prefill.json").read_text())
CRITERIA = Criteria(retention=0.8, gain=0.05)
MICRO = {"metric": "acc", "model": "resources/micro/base"}
SAME = {"metric": "acc", "model": "models/Ministral-3-3B"}  # published tasks bring acc_token


def row_of(rows, **wanted):
    found = [r for r in rows if all(r[name] == value for name, value in wanted.items())]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def macro():
    return row_of(published_rows(PUBLISHED, CRITERIA), recipe="3B", mask="full_bidir", task="macro")


def printed(recipe, mask):
    return row_of(PUBLISHED["scores"], recipe=recipe, mask=mask)["macro"]


# --- the printed digits ---------------------------------------------------------------------------


def test_macros_are_the_means_of_their_tasks_to_the_digits_printed(macro):
    assert as_printed(macro["baseline"], printed(None, "causal"))
    assert as_printed(macro["after"], printed("3B", "full_bidir"))


def test_the_ablated_macro_was_printed_7e7_away_from_the_mean_of_its_tasks(macro):
    value = float(printed(None, "full_bidir"))
    assert not as_printed(macro["ablated"], printed(None, "full_bidir"))
    assert macro["ablated"] - value == pytest.approx(7.3e-7, abs=1e-8)
    assert as_printed(macro["ablated"], "0.355898")  # the six digits printed at first agree
    assert "ablated printed as 0.3558976000" in macro["note"]


def test_damage_gain_and_retention_come_back_from_the_macros_as_printed(macro):
    derived, a = PUBLISHED["derived"], float(printed(None, "full_bidir"))
    assert as_printed(a - macro["baseline"], derived["damage"])
    assert as_printed(macro["after"] - a, derived["gain"])
    assert as_printed(macro["retention"], derived["retention"])
    assert as_printed(a / macro["baseline"], derived["retention_ablated"])
    # and from the tasks, but for those 7e-7
    assert macro["damage"] == pytest.approx(float(derived["damage"]), abs=8e-7)
    assert macro["gain"] == pytest.approx(float(derived["gain"]), abs=8e-7)
    assert as_printed(macro["ablated"] / macro["baseline"], derived["retention_ablated"])


def test_the_side_effect_comes_back(macro):
    rows = published_rows(PUBLISHED, CRITERIA)
    causal = row_of(rows, recipe="3B", mask="causal", task="macro")
    assert as_printed(causal["side_effect"], PUBLISHED["derived"]["side_effect"])
    assert "ablated" not in causal and "gain" not in causal


def test_accuracies_are_whole_numbers_of_right_answers():
    assert exact_accuracy("0.585284", 299) == 175 / 299
    assert exact_accuracy("0.242000", 500) == 121 / 500
    with pytest.raises(ValueError, match="no whole number .* among 299 is printed as 0.585285"):
        exact_accuracy("0.585285", 299)
    for score in PUBLISHED["scores"]:
        for task, value in score.get("tasks", {}).items():
            assert as_printed(accuracies(score, PUBLISHED["items"])[task], value)


def test_the_published_recipe_does_not_meet_the_published_criteria(macro):
    assert macro["criteria_met"] is False and macro["gain"] >= CRITERIA.gain
    easy = published_rows(PUBLISHED, Criteria(retention=0.58, gain=0.05))
    assert row_of(easy, recipe="3B", mask="full_bidir", task="macro")["criteria_met"] is True


def test_no_damage_no_recovered_fraction():
    unharmed = json.loads(json.dumps(PUBLISHED))
    unharmed["scores"][1]["tasks"]["piqa"] = "0.790000"
    row = row_of(published_rows(unharmed, CRITERIA), recipe="3B", mask="full_bidir", task="piqa")
    assert row["recovered_status"] == "not_estimable" and "recovered" not in row


# --- beside ours ----------------------------------------------------------------------------------


def recovery_csv(tasks, n=500):
    """A recovery.csv as text: two seeds and all of them, under one mask."""
    rows = []
    for seed in ("1", "2", "all"):
        for task in [*tasks, *tasks_by_macro(tasks)]:
            row = dict.fromkeys(RECOVERY_COLUMNS, "")
            row |= {"study": "mine", "recipe": "3B", "seed": seed, "mask": "prefill_bidir"}
            rows.append(row | {"task": task, "n": str(n), "baseline": "0.123456789"})
    return pd.DataFrame(rows)


def ours(tasks, named, n=500, **trained):
    frame = side_by_side(PUBLISHED, recovery_csv(tasks, n), published_settings(named, **trained))
    return frame[frame.source == "ours"]


def test_every_row_names_its_source_model_protocol_metric_and_mask():
    recovery = recovery_csv(["micro_piqa"])
    frame = side_by_side(PUBLISHED, recovery, published_settings(MICRO))
    assert list(frame.columns) == COLUMNS and set(RECOVERY_COLUMNS) < set(COLUMNS)
    named = frame[["source", "study", "model", "protocol", "metric", "mask", "recipe", "task"]]
    assert (named.notna() & (named != "")).all(axis=None)
    assert set(frame.source) == {"published", "ours"}
    theirs = frame[frame.source == "published"]
    assert set(theirs["mask"]) == {"full_bidir", "causal"}
    assert (theirs.eval_leaks == (theirs["mask"] == "full_bidir")).all()
    assert set(theirs.loc[theirs["mask"] != "causal", "recovered_status"]) == {"no_samples"}


def test_our_rows_are_those_over_all_seeds_cell_by_cell():
    mine = ours(["micro_piqa"], MICRO)
    assert set(mine.seed) == {"all"} and list(mine.task) == ["micro_piqa", "macro"]
    assert set(mine.baseline) == {"0.123456789"} and set(mine.model) == {"resources/micro/base"}


def test_what_cannot_be_compared_is_said():
    start = "not comparable with the published rows: other "
    assert set(ours(["micro_piqa"], MICRO).note) == {f"{start}protocol, metric, tasks"}
    tasks = [f"published_{task}" for task in PUBLISHED["items"]]
    assert set(ours(tasks, SAME).note) == {f"{start}items"}  # ARC-Challenge has 299
    assert set(ours(tasks[:2], SAME).note) == {f"{start}tasks"}


def test_a_model_that_was_trained_otherwise_is_noted():
    tasks = [f"published_{task}" for task in PUBLISHED["items"]]
    trained = {"format": "corrected", "optimizer": "adafactor_bf16", "hardware.compile": True}
    start = "not comparable with the published rows: other "
    found = ours(tasks, SAME, **trained)
    assert set(found.note) == {f"{start}items, training (format, optimizer)"}
    assert set(ours(tasks, SAME, **{"hardware.compile": True}).note) == {f"{start}items"}


def test_the_same_tasks_and_items_stand_under_the_same_names():
    recovery = recovery_csv([f"published_{task}" for task in PUBLISHED["items"]])
    recovery.loc[recovery.task == "published_arc_challenge", "n"] = "299"
    frame = side_by_side(PUBLISHED, recovery, published_settings(SAME))
    mine, theirs = (frame[frame.source == source] for source in ("ours", "published"))
    assert set(mine.note) == {""} and set(mine.task) == set(theirs.task)
