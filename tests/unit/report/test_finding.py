"""Promises of the sentences that a study ends with: true, with their scope, never of a leak."""

from pathlib import Path

import pandas as pd
import pytest

from ablation.report.finding import finding, show
from tests.support.small_results import HOME, make


@pytest.fixture(scope="module")
def recovery(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("small"))
        make(Path("."))
        frame = pd.read_csv(f"{HOME}/recovery.csv", dtype={"seed": str})
    trained = frame.recipe == "3B"
    frame["control"] = frame.control.astype(object).where(~trained, "3A")
    frame["net_recovered_status"] = frame.net_recovered_status.where(~trained, "estimable")
    for name, value in {
        "net_recovered": 0.5,
        "net_recovered_low": 0.25,
        "net_recovered_high": 1,
    }.items():
        frame[name] = frame[name].where(~trained, value)
    return frame


def test_the_sentences_have_the_numbers_of_the_row_with_a_control(recovery):
    first, second = finding(recovery)
    rows = recovery[(recovery.recipe == "3B") & (recovery.seed == "all")]
    (row,) = rows[(rows["mask"] == "prefill_bidir") & (rows.task == "macro")].itertuples()
    assert f"from {row.baseline:.3f} to {row.ablated:.3f} correct; after the finetuning 3B" in first
    expected = (row.recovered, row.recovered_low, row.recovered_high)
    assert "R = {:.2f} [{:.2f}, {:.2f}] of the loss (2 seeds".format(*expected) in first
    assert "Against the control 3A" in second and "net R = 0.50 [0.25, 1.00]" in second


def test_no_leak_and_nothing_that_cannot_be_estimated_is_a_finding(recovery):
    leaks = recovery.assign(train_leaks=True)
    unknown = recovery.assign(recovered_status="not_estimable")
    for frame in (leaks, unknown, recovery[recovery["mask"] == "causal"]):
        (sentence,) = finding(frame)
        assert sentence.startswith("No recipe without a leak")
    (alone,) = finding(recovery[recovery.control.isna()])
    assert "net R" not in alone


def test_the_box_breaks_no_command_and_controls_no_terminal(
    recovery, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = Path("recovery.csv")
    recovery.assign(study="small\x1b[2J").to_csv(file, index=False)
    show(file)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "ablation trace" in shown and "report.html" in shown
    assert len({len(line) for line in shown.splitlines()}) == 1
    (trace,) = [line for line in shown.splitlines() if "ablation trace" in line]
    assert trace.rstrip("│ ").endswith("task=macro")


def test_the_box_names_the_study_and_not_the_table_that_studies_share(recovery, capsys, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("results/small").mkdir(parents=True)
        recovery.assign(study="small").to_csv("results/small/recovery.csv", index=False)
        show(Path("results/small/recovery.csv"))
    shown = capsys.readouterr().out
    for command in ("table", "verify", "trace"):
        assert f"ablation {command} --study small" in shown
    assert max(map(len, shown.splitlines())) < 120
