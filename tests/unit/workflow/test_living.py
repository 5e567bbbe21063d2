"""Promises: a living run keeps its lock and is told of; a lock that was left behind is removed."""

import subprocess
import sys

import pytest

from ablation.workflow import living
from ablation.workflow.command_line import check_arguments

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    living.LOCKS.mkdir(parents=True)
    (living.LOCKS / "0.input.lock").touch()
    return tmp_path


def test_a_lock_that_a_killed_run_has_left(locked, capsys):
    check_arguments(["--cores", "1"])
    told = capsys.readouterr().err
    assert "was killed" in told and "make unlock" in told and len(told.splitlines()) <= 3
    assert living.main() == 0 and not any(living.LOCKS.iterdir())
    capsys.readouterr()
    check_arguments(["--cores", "1"])
    assert capsys.readouterr().err == ""


def test_a_dry_run_is_told_nothing_of_locks(locked, capsys):
    check_arguments(["-n"])
    assert capsys.readouterr().err == ""


@ON_LINUX
def test_a_living_run_keeps_its_lock(locked, capsys):
    (locked / "snakemake").write_text("import sys; print(flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "snakemake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        run.stdout.readline()
        assert living.living_runs() == [run.pid]
        assert living.main() == 1 and any(living.LOCKS.iterdir())
        check_arguments(["--cores", "1"])
        told = capsys.readouterr().err
        assert told.count(f"process {run.pid}") == 2 and f"kill -INT {run.pid}" in told
        run.stdin.close()
