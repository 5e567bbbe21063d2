"""Promises of the logger plugin `live`: what it counts and reads; all else is passed on."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from snakemake_interface_logger_plugins.tests import TestLogHandlerBase as PluginPromises

from ablation.progress import Progress
from snakemake_logger_plugin_live import LogHandler
from snakemake_logger_plugin_live.state import Run
from snakemake_logger_plugin_live.view import (
    duration,
    last_line,
    progress,
    spent,
    stages,
    summary,
    table,
)

SOURCES = Path(__file__).resolve().parents[2] / "src"


class TestPlugin(PluginPromises):
    __test__ = True

    def get_log_handler_cls(self):
        return LogHandler

    def get_log_handler_settings(self):
        return None


def half_way():
    """Of 2 + 4 jobs two are done, 10 s each, and one runs since 5 s; one at a time."""
    run = Run()
    run.planned({"stage3_finetune": 4, "recovery": 2, "total": 6})
    for number, begun in enumerate((0.0, 10.0)):
        run.started(number, "stage3_finetune", "Stage 3: finetuning", [], begun)
        run.finished(number, begun + 10.0)
    run.started(2, "stage3_finetune", "Stage 3: finetuning 3B, seed 7", ["no such log"], 20.0)
    return run


def test_what_is_left_is_what_like_jobs_took():
    # 5 s of the running job, one more like it, and two of an unknown rule
    assert half_way().left(25.0) == pytest.approx(5 + 10 + 2 * 10)


def test_jobs_side_by_side_halve_what_is_left():
    run = Run()
    run.planned({"a": 4})
    for number in (0, 1):
        run.started(number, "a", None, [], 0.0)
    for number in (0, 1):
        run.finished(number, 10.0)
    assert run.left(10.0) == pytest.approx(2 * 10 / 2)


def test_nothing_is_known_before_the_first_job_has_ended():
    assert Run().left(1.0) is None
    run = Run()
    run.started(1, "a", None, [], 0.0)
    assert run.left(5.0) is None


def test_stages_come_in_order_and_all_else_together():
    assert stages(half_way()) == "stage3_finetune 2/4   other 0/2"


def test_the_summary_names_money_only_where_some_was_spent():
    assert summary(half_way(), 25.0, 0.0) == "2 of 6 jobs, about 35 s left"
    assert summary(half_way(), 25.0, 0.4).endswith("$0.40")


def test_steps_and_loss_are_those_that_a_training_prints(capsys):
    label = Progress("3B seed 11: odd", 300, done=100, every=0.0)
    label.update(150, "loss 1.2340")
    step, bar, loss, left = progress(capsys.readouterr().err.strip())
    assert (step, loss) == ("150/300", "1.2340") and bar.count("━") == 5 and left.endswith("s")
    label.update(300)
    assert progress(capsys.readouterr().err.strip())[0] == "300/300"
    assert progress("some remark of a library") == ("", "", "", "")


def test_the_last_line_of_progress_is_found_in_a_log(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("a: 1/3 (33 %) loss 2.0, 9 s left\na: 2/3 (66 %) loss 1.0, 4 s left\nremark\n")
    run = Run()
    job = run.started(1, "a", None, [log], 0.0)
    assert progress(last_line(job))[0] == "2/3"
    assert last_line(run.started(2, "a", None, [tmp_path / "none"], 0.0)) == ""


@pytest.mark.parametrize("width", [40, 72, 80, 120])
def test_step_loss_and_time_left_are_whole_on_every_terminal(width):
    """A long name is shortened, never a number."""
    run = half_way()
    run.started(3, "stage5_longrun", "Stage 5: finetuning 3B-lr1e-4-leaky, seed 31", [], 20.0)
    console = Console(width=width, record=True, file=io.StringIO())
    line = "x: 1200/3000 (40 %) loss 12.3456, 7500 s left"
    console.print(table(run, 25.0, 0.4, lambda job: line, width))
    shown = console.export_text()
    for said in ("Stage 3: finetuning", "Stage 5: finetuning", "stage3_finetune 2/4", "$0.40"):
        assert said in shown, shown
    for number in ("1200/3000", "12.3456", "2 h 05 min", "5 s"):
        assert shown.count(number) >= 2, shown
    assert ("━" in shown) == (width >= 100)


def test_a_job_without_progress_is_named_all_the_same():
    for width in (40, 120):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table(half_way(), 25.0, 0.0, lambda job: "", width))
        assert "Stage 3: finetuning 3B, seed 7" in console.export_text()


def test_no_ledger_no_money(tmp_path):
    assert spent(tmp_path) == 0.0


def test_a_damaged_ledger_keeps_no_study_from_its_work(tmp_path):
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/bad.jsonl").write_text("no json\n\n")
    intend = {"what": "intend", "run": "r", "label": "m", "dph": 1, "seconds": 9, "time": 0}
    end = {"what": "end", "run": "r", "label": "m", "time": 9, "dollars": 0.5, "seconds": 9}
    text = "".join(json.dumps(line) + "\n" for line in (intend, end))
    (tmp_path / "ledger/good.jsonl").write_text(text)
    assert spent(tmp_path) == 0.5


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (120, "2 min"), (7500, "2 h 05 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


SNAKEFILE = """
rule stage3_finetune:
    output: "out.txt"
    log: "job.log"
    message: "Stage 3: a finetuning"
    shell:
        "echo 'x: 1/2 (50 %) loss 0.5, 1 s left' | tee {log} >&2; "
        "echo a remark >&2; touch {output}"
"""


def call(folder, *options, snakefile=SNAKEFILE, **streams):
    (folder / "Snakefile").write_text(snakefile)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "live", *options]
    environment = os.environ | {"PYTHONPATH": str(SOURCES), "TERM": "xterm", "COLUMNS": "120"}
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    run = call(tmp_path, stderr=subprocess.PIPE, text=True)
    told = run.communicate()[1]
    assert run.returncode == 0, told
    assert "start  Stage 3: a finetuning" in told and "1 of 1 jobs" in told
    assert "a remark" in told and "x: 1/2" in told and "\x1b" not in told


def shown(ours, until="\0"):
    """What the terminal shows, to its end or to these words."""
    told = b""
    try:
        while until.encode() not in told and (more := os.read(ours, 4096)):
            told += more
    except OSError:  # the terminal's other end is closed
        pass
    return told.decode()


def test_on_a_terminal_progress_stands_in_the_table_and_remarks_above_it(tmp_path):
    ours, theirs = pty.openpty()
    run = call(tmp_path, stderr=theirs)
    os.close(theirs)
    text = shown(ours)
    assert run.wait() == 0 and (tmp_path / "out.txt").exists()
    assert "a remark" in text and "1 of 1 jobs" in text and "stage3_finetune" in text
    assert "x: 1/2" not in text
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in text  # the cursor is shown again


PAID = 'rule paid:\n    output: "out.txt"\n    resources: gpu=1\n    shell: "touch {output}"\n'


def test_before_money_is_spent_the_person_at_the_terminal_is_still_asked(tmp_path):
    """Even with a budget, which stands for a yes only where nobody sits."""
    ours, theirs = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    budget = ("--executor", "vast", "--jobs", "1", "--vast-budget", "9")
    run = call(tmp_path, *budget, snakefile=PAID, **streams)
    os.close(theirs)
    asked = shown(ours, until="[y/N]")
    assert "Rent for about $9.00? [y/N]" in asked
    os.write(ours, b"n\n")
    assert "nothing was rented: the answer was not yes" in shown(ours)
    assert run.wait() != 0
