"""Promises of terminal output: progress lines, pauses of the live display, questions, logs."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest
import snakemake_executor_plugin_vast.money.ledger as ledger
from snakemake_executor_plugin_vast.terminal import live_display_paused
from snakemake_logger_plugin_live import progress
from snakemake_logger_plugin_live.costs import installed_sources
from snakemake_logger_plugin_live.pause import register_pause

from ablation.console.printable import printable_json
from ablation.console.progress import Progress


def test_the_live_display_parses_progress_lines(capsys):
    lines = Progress("3B seed 11: odd", 300, done=100, every=0.0)
    lines.update(150, "loss 1.2340")
    found = progress.parse(capsys.readouterr().err)
    assert (found.done, found.total, found.note) == (150, 300, "loss 1.2340")
    assert found.seconds_left is not None
    lines.update(300)
    assert progress.parse(capsys.readouterr().err).done == 300


def test_a_loaded_live_display_is_paused():
    paused = []

    class Pause:
        def __enter__(self):
            paused.append(True)

        def __exit__(self, *error):
            paused.append(False)

    register_pause(Pause)
    try:
        with live_display_paused():
            assert paused == [True]
    finally:
        register_pause(None)
    assert paused == [True, False]


def test_no_logger_plugin_is_loaded():
    code = (
        "import sys; from snakemake_executor_plugin_vast.terminal import live_display_paused\n"
        "with live_display_paused(): pass\n"
        "print([name for name in sys.modules if 'logger_plugin' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_live_display_sums_the_dollars_in_the_ledgers_of_this_folder(tmp_path, monkeypatch):
    assert ledger.dollars_spent in installed_sources()
    monkeypatch.chdir(tmp_path)
    assert ledger.dollars_spent() == 0.0
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/bad.jsonl").write_text("no json\n\n")
    intend = {"what": "intend", "run": "r", "label": "m", "machine": 1, "dph": 1, "seconds": 9}
    intend |= {"time": 0}
    end = {"what": "end", "run": "r", "label": "m", "time": 9, "dollars": 0.5, "seconds": 9}
    text = "".join(json.dumps(line) + "\n" for line in (intend, end))
    (tmp_path / "ledger/good.jsonl").write_text(text)
    assert ledger.dollars_spent() == 0.5


def test_the_output_of_a_job_cannot_control_the_terminal(tmp_path):
    """Neither what it prints, nor its log, nor the error that ends it."""
    code = (
        "import logging, sys\nfrom ablation.console.progress import copy_output_to\n"
        "with copy_output_to('log'):\n"
        "    print('text: \\x1b]0;owned\\x07\\x9b2J', file=sys.stderr)\n"
        "    print('3/9\\r4/9')\n"
        "    logging.warning('library: \\x1b[8m')\n"
        "    raise ValueError('row: \\x1b[2J')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    out, err = done.stdout.decode(), done.stderr.decode()
    log = (tmp_path / "log").read_bytes().decode()
    written = r"text: \x1b]0;owned\x07\x9b2J"
    for shown in (err, log):
        assert written in shown and r"ValueError: row: \x1b[2J" in shown
        assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert r"library: \x1b[8m" in log and "3/9\r4/9" in out and done.returncode == 1


PAID = 'rule paid:\n    output: "out.txt"\n    resources: gpu=1\n    shell: "touch {output}"\n'


def read_terminal(terminal, until="\0"):
    """The output on the pseudo-terminal, up to its end or to the text `until`."""
    output = b""
    try:
        while until.encode() not in output and (more := os.read(terminal, 4096)):
            output += more
    except OSError:  # the process has closed the other end
        pass
    return output.decode()


@pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync: apt-get install rsync")
def test_the_executor_asks_at_the_terminal_before_it_rents(tmp_path):
    """The question comes even if the market does not answer."""
    (tmp_path / "Snakefile").write_text(PAID)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "live"]
    command += ["--executor", "vast", "--jobs", "1", "--vast-budget", "9"]
    command += ["--vast-time-scale", "1000"]  # the executor waits before it calls the market again
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    environment |= {"VAST_API_KEY": "no-key-at-all", "VAST_URL": "http://127.0.0.1:9"}
    ours, theirs = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, **streams)
    os.close(theirs)
    assert "Rent machines for up to $9.00? [y/N]" in read_terminal(ours, until="[y/N]")
    os.write(ours, b"n\n")
    assert "Nothing was rented: the answer was not yes" in read_terminal(ours)
    assert run.wait() != 0


def test_json_has_no_character_that_controls_a_terminal():
    text = "".join(map(chr, range(0x100)))
    assert printable_json({"text": text}).isprintable()
    assert json.loads(printable_json({"text": text})) == {"text": text}
