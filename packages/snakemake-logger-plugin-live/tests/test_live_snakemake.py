"""The plugin inside Snakemake: its kit of tests for plugins, and whole runs of a workflow."""

import os
import pty
import subprocess

import pytest
from live_runs import FOREIGN, shown, start_snakemake
from snakemake_interface_logger_plugins.tests import TestLogHandlerBase as SnakemakeKit
from snakemake_logger_plugin_live import LogHandler


class TestKit(SnakemakeKit):
    __test__ = True

    def get_log_handler_cls(self):
        return LogHandler

    def get_log_handler_settings(self):
        return None

    @pytest.fixture(autouse=True)
    def no_hidden_errors(self, monkeypatch):
        """The handler reports its own errors to `handleError`, which by itself fails no test."""

        def fail(handler, record):
            raise

        monkeypatch.setattr(LogHandler, "handleError", fail)

    def _create_handler(self):
        handler = super()._create_handler()
        if not handler.has_formatter:  # as Snakemake does
            from snakemake.logging import DefaultFormatter

            handler.setFormatter(DefaultFormatter())
        return handler


def plain(folder, *options, workflow=FOREIGN):
    """All that a run without a terminal writes; it must end well."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = start_snakemake(folder, *options, workflow=workflow, **streams)
    text = run.communicate()[0]
    assert run.returncode == 0, text
    return text


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    text = plain(tmp_path)
    assert "start  align sample=A" in text and "start  Writing the report" in text
    assert "4 of 4 jobs" in text and "a remark on A" in text and "reads: 40/120" in text
    assert "\x1b" not in text


def test_a_dry_run_names_the_jobs_and_runs_none(tmp_path):
    text = plain(tmp_path, "--dry-run")
    assert "would run align sample=B" in text and not (tmp_path / "report.txt").exists()


@pytest.mark.parametrize(
    ("quiet", "silenced"), [("rules", "start "), ("progress", "done "), ("all", " ")]
)
def test_quiet_is_obeyed(tmp_path, quiet, silenced):
    ours = [line for line in plain(tmp_path, "--quiet", quiet).splitlines() if line[2:3] == ":"]
    assert not any(silenced in line for line in ours)
    assert bool(ours) == (quiet != "all")


def test_shell_commands_are_printed_if_asked_for(tmp_path):
    command = "echo a remark on A >&2"
    assert command not in plain(tmp_path)
    assert command in plain(tmp_path, "--printshellcmds", "--forceall")


def test_on_a_terminal_progress_is_in_the_table_and_other_output_above_it(tmp_path):
    ours, theirs = pty.openpty()
    run = start_snakemake(tmp_path, stderr=theirs)
    os.close(theirs)
    text = shown(ours)
    assert run.wait() == 0 and (tmp_path / "report.txt").exists()
    assert "a remark on B" in text and "4 of 4 jobs" in text and "align 2/2" in text
    assert "reads: 40/120" not in text
    assert text.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in text  # the cursor is shown again


def test_a_failed_job_is_reported_and_the_exit_status_is_snakemakes(tmp_path):
    ours, theirs = pty.openpty()
    broken = FOREIGN.replace("touch {output}", "echo the cause > {log}; exit 3", 1)
    run = start_snakemake(tmp_path, workflow=broken, stderr=theirs)
    os.close(theirs)
    text = shown(ours)
    assert run.wait() == 1
    assert "Error in rule align" in text and ("A.log" in text or "B.log" in text), text


CHECKPOINT = """
rule all:
    input: lambda w: expand("{n}.txt", n=range(checkpoints.split.get() and 3))

checkpoint split:
    output: "parts"
    shell: "touch {output}"

rule part:
    output: "{n}.txt"
    shell: "touch {output}"
"""


def test_jobs_that_a_checkpoint_adds_are_counted(tmp_path):
    assert "5 of 5 jobs" in plain(tmp_path, workflow=CHECKPOINT)


ASKS = """
from snakemake_logger_plugin_live.pause import live_display_paused

onstart:
    import builtins, sys
    with live_display_paused():
        answer = builtins.input("Go on? ") if sys.stderr.isatty() else "no terminal"
    print(f"the answer was {answer}", file=sys.stderr)

rule one:
    output: "one.txt"
    shell: "touch {output}"
"""


def test_a_question_reaches_the_person_at_the_terminal(tmp_path):
    ours, theirs = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    run = start_snakemake(tmp_path, workflow=ASKS, **streams)
    os.close(theirs)
    os.write(ours, b"yes\n")
    text = shown(ours)
    assert run.wait() == 0 and "Go on?" in text and "the answer was yes" in text, text


HOSTILE = r"""
rule one:
    output: "one.txt"
    message: "Writing \x1b]0;title\x07"
    shell: r"printf '\033]0;output\007\n' >&2; touch {output}"
"""


def test_no_text_of_a_job_controls_the_terminal(tmp_path):
    ours, theirs = pty.openpty()
    run = start_snakemake(tmp_path, workflow=HOSTILE, stderr=theirs)
    os.close(theirs)
    text = shown(ours)
    assert run.wait() == 0
    for said in ("title", "output"):
        assert rf"\x1b]0;{said}\x07" in text and f"\x1b]0;{said}" not in text


def test_no_message_of_a_rule_is_printed_with_what_controls_a_terminal(tmp_path):
    text = plain(tmp_path, "--dry-run", workflow=HOSTILE)
    assert r"\x1b]0;title\x07" in text and "\x1b" not in text
