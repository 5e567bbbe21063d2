"""What the display counts, estimates and shows."""

import io

import pytest
from live_runs import half_done
from rich.console import Console
from snakemake_logger_plugin_live.former import FILE, read_former, write_former
from snakemake_logger_plugin_live.progress import Progress, last_progress, parse
from snakemake_logger_plugin_live.run import Run
from snakemake_logger_plugin_live.view import (
    MOST_RULES,
    duration,
    finished_line,
    rule_counts,
    summary,
    table,
)


def test_the_time_left_is_told_by_measured_jobs_of_each_rule_alone():
    """A second of a quick rule says nothing of a rule whose jobs train for an hour."""
    run = half_done()
    assert run.seconds_left(25.0) is None and "left" not in summary(run, 25.0, 0.0)
    run.former = {rule: 7.0 for rule in run.planned}
    # 5 s of the running job, one more of its rule, and two of a rule that former runs have measured
    assert run.seconds_left(25.0) == pytest.approx(5 + 10 + 2 * 7)
    assert run.copy().seconds_left(25.0) == run.seconds_left(25.0)


def test_former_runs_are_remembered_and_nonsense_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_former({"a": 1.23456})  # without a folder of Snakemake nothing is kept
    assert read_former() == {}
    (tmp_path / ".snakemake").mkdir()
    write_former({"train": 60.0, "a": 1.23456})
    assert read_former() == {"a": 1.235, "train": 60.0}
    for nonsense in ("", "[1]", "[" * 100_000, '{"a": "x", "b": -1, "c": NaN, "d": true, "e": 2}'):
        (tmp_path / FILE).write_text(nonsense)
        assert read_former() == ({"e": 2.0} if '"e"' in nonsense else {})


def test_jobs_side_by_side_halve_the_time_left():
    run = Run()
    run.plan({"a": 4})
    for number in (0, 1):
        run.start(number, "a", "a", [], 0.0)
    for number in (0, 1):
        run.finish(number, 10.0)
    assert run.seconds_left(10.0) == pytest.approx(2 * 10 / 2)


def test_there_is_no_estimate_before_the_first_job_has_ended():
    assert Run().seconds_left(1.0) is None
    run = Run()
    run.start(1, "a", "a", [], 0.0)
    assert run.seconds_left(5.0) is None


def test_jobs_that_a_checkpoint_adds_are_counted():
    run = Run()
    run.plan({"split": 1, "total": 1})
    run.start(0, "split", "split", [], 0.0)
    run.finish(0, 1.0)
    run.extend(jobs_in_dag=3)
    run.start(1, "count", "count", [], 1.0)
    assert (run.jobs_done(), run.jobs_planned()) == (1, 3)
    assert rule_counts(run) == "split 1/1   count 0/1"


def test_a_job_that_failed_and_starts_again_counts_once():
    run = Run()
    run.plan({"a": 1, "total": 1})
    run.start(0, "a", "a", [], 0.0)
    run.fail(0)
    run.start(0, "a", "a", [], 5.0)
    run.finish(0, 9.0)
    assert rule_counts(run) == "a 1/1" and run.seconds == {"a": [4.0]}


def test_a_copy_of_a_run_does_not_change_with_it():
    run = half_done()
    copy = run.copy()
    assert copy == run
    run.finish(2, 30.0)
    assert 2 in copy.running and copy.done["align"] == 2 and copy.seconds["align"] == [10.0, 10.0]


def test_rules_are_listed_in_the_order_of_execution():
    assert rule_counts(half_done()) == "align 2/4   report 0/2"


def test_of_many_rules_the_finished_ones_are_counted_and_those_under_way_come_first():
    run = Run()
    names = [f"rule{number}" for number in range(MOST_RULES + 4)]
    run.plan(dict.fromkeys(names, 1))
    for number in (0, 1):
        run.start(number, names[number], "", [], 0.0)
        run.finish(number, 1.0)
    run.start(2, names[-1], "", [], 1.0)
    shown = rule_counts(run).split("   ")
    assert shown[:3] == ["2 rules done", f"{names[-1]} 0/1", "rule2 0/1"]
    assert shown[-1] == "2 more rules" and len(shown) == MOST_RULES + 2


def test_the_summary_names_dollars_only_if_some_were_spent():
    run = half_done()
    run.former = {"report": 10.0}
    assert summary(run, 25.0, 0.0) == "2 of 6 jobs, about 35 s left"
    assert summary(half_done(), 25.0, 0.4).endswith("$0.40")


def test_a_finished_job_is_reported_with_its_duration():
    run = half_done()
    job = run.finish(2, 50.0)
    line = finished_line(run, job, 50.0, 0.0)
    assert line.startswith("done   Aligning all reads of sample C, lane 7 (30 s); 3 of 6 jobs")


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("x: 40/120 (33 %) loss 1.2, 14 s left", Progress(40, 120, "loss 1.2", 14.0)),
        ("a: b: 1/2 (50 %) 0.5 s left\n", Progress(1, 2, "", 0.5)),
        ("reads: 2/2 (100 %) done in 9 s", Progress(2, 2, "done in 9 s")),
        ("reads: 2/4 (50%)", Progress(2, 4)),
        ("x: 1/4 (25 %) many s left", Progress(1, 4, "many s left")),
        ("some remark of a library", None),
        ("ratio: 1/2", None),
    ],
)
def test_the_documented_format_of_progress_is_read(line, progress):
    assert parse(line) == progress


def test_the_last_line_of_progress_is_found_in_a_log(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("a: 1/3 (33 %) 9 s left\n" * 1000 + "a: 2/3 (66 %) 4 s left\nremark\n")
    assert last_progress([tmp_path / "none", log]).done == 2
    assert last_progress([tmp_path / "none"]) is None


@pytest.mark.parametrize("width", [40, 72, 80, 120])
def test_numbers_are_whole_at_every_width_of_a_terminal(width):
    """A long name is shortened, never a number."""
    run = half_done()
    run.start(3, "report", "Writing the report on all the samples", [], 20.0)
    console = Console(width=width, record=True, file=io.StringIO())
    progress = Progress(1200, 3000, "loss 12.3456", 7500.0)
    console.print(table(run, 25.0, 0.4, lambda job: progress, width))
    text = console.export_text()
    for words in ("Aligning all reads", "Writing the report", "align 2/4", "$0.40"):
        assert words in text, text
    for number in ("1200/3000", "loss 12.3456", "2 h 05 min", "5 s"):
        assert text.count(number) >= 2, text
    assert ("━" in text) == (width >= 100)


@pytest.mark.parametrize("width", [40, 120])
def test_a_job_without_progress_is_listed(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(half_done(), 25.0, 0.0, lambda job: None, width))
    assert "Aligning all reads" in console.export_text()


def test_brackets_in_names_and_notes_are_shown_as_they_are():
    run = Run()
    run.start(0, "a", "align [bold]x[/bold]", [], 0.0)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(run, 1.0, 0.0, lambda job: Progress(1, 2, "[red]"), 120))
    text = console.export_text()
    assert "align [bold]x[/bold]" in text and "[red]" in text


def test_a_note_cannot_control_the_terminal():
    run = Run()
    run.start(0, "a", "a", [], 0.0)
    stream = io.StringIO()
    progress = parse("a: 1/2 (50 %) \x1b]0;owned\x07")
    Console(width=120, file=stream).print(table(run, 1.0, 0.0, lambda job: progress, 120))
    assert r"\x1b]0;owned\x07" in stream.getvalue() and "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (120, "2 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
