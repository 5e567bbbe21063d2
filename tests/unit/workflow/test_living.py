"""Promises: a run beside a living one is told so first; a lock that was left behind is removed."""

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ablation.workflow import living
from ablation.workflow.living import StudyLocked, leave_to_other_run, refuse_locked_study
from tests.support.refusals import ROOT

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
TABLE = "results/recovery.csv"


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder in which a run of the study demo has locked its results."""
    monkeypatch.chdir(tmp_path)
    living.LOCKS.mkdir(parents=True)
    (living.LOCKS / "0.input.lock").write_text("resources/micro/manifest.json\n")
    (living.LOCKS / "0.output.lock").write_text(f"{TABLE}\nresults/demo/base/manifest.json\n")
    return tmp_path


@contextmanager
def living_run(folder):
    """A process that looks like a run of Snakemake in the folder."""
    (folder / "snakemake").write_text("import sys; print(flush=True); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "snakemake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        run.stdout.readline()
        yield run.pid
        run.stdin.close()


def snakemake(folder, *arguments):
    (folder / "mine.yaml").write_text("study: mine\nseeds: [1]\n")
    command = [sys.executable, "-m", "snakemake", "-s", f"{ROOT}/Snakefile", "-d", str(folder)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)


def test_a_lock_that_a_killed_run_has_left(locked, capsys):
    with pytest.raises(StudyLocked) as refused:
        refuse_locked_study("results/demo", "demo")
    message = str(refused.value)
    assert "was killed" in message and "make unlock" in message
    assert len(message.splitlines()) <= 3
    assert "make unlock" in leave_to_other_run(TABLE, "results/mine/recovery.csv")
    assert living.main() == 0 and not any(living.LOCKS.iterdir())
    refuse_locked_study("results/demo", "demo")
    assert leave_to_other_run(TABLE, "results/mine/recovery.csv") is None


def test_a_bridge_and_the_study_of_its_name_lock_nothing_of_each_other(locked):
    lock = living.LOCKS / "0.output.lock"
    lock.write_text("results/micro/bridge/claims.csv\n")
    refuse_locked_study("results/micro", "micro")
    with pytest.raises(StudyLocked):
        refuse_locked_study("results/micro/bridge", "micro")
    lock.write_text("results/micro/recovery.csv\nresults/microscope/recovery.csv\n")
    refuse_locked_study("results/micro/bridge", "micro")
    refuse_locked_study("results/micr", "micr")


def test_the_run_of_another_user_keeps_its_lock(locked, monkeypatch, capsys):
    """Whose folder the system hides; it counts if that user has locked files here."""
    holder = living.LOCKS.lstat().st_uid

    def run_of(user, pid):
        info = {"cmdline": ["python", "-m", "snakemake"], "cwd": None}
        return SimpleNamespace(pid=pid, info=info | {"uids": SimpleNamespace(real=user)})

    processes = [run_of(holder, 4_000_001), run_of(holder + 1, 4_000_002)]
    monkeypatch.setattr(living.psutil, "process_iter", lambda names: processes)
    monkeypatch.setattr(living.os, "getuid", lambda: holder + 2)
    assert living.living_runs() == [4_000_001]
    assert living.main() == 1 and any(living.LOCKS.iterdir())
    monkeypatch.setattr(living.os, "getuid", lambda: holder)
    assert living.living_runs() == []


def test_a_lock_whose_run_ends_meanwhile_locks_nothing(locked):
    gone = living.LOCKS / "1.output.lock"
    gone.symlink_to("nothing")  # is listed, but can no longer be read
    (living.LOCKS / "2.output.lock").write_bytes(b"results/\xff.csv\n")
    assert TABLE in living.locked_outputs()


@ON_LINUX
def test_a_second_run_of_a_study_is_refused_before_anything_else(locked):
    with living_run(locked) as run:
        assert living.living_runs() == [run]
        assert living.main() == 1 and any(living.LOCKS.iterdir())  # make unlock
        done = snakemake(locked, "--cores", "1", "--config", "study=demo")
    (first, second) = [line for line in done.stderr.splitlines() if "Using workflow" not in line]
    assert done.returncode == 1 and f"(process {run}). Nothing was started." in first
    assert f"kill -INT {run}" in second


@ON_LINUX
def test_another_study_leaves_the_shared_table_to_the_living_run(locked):
    with living_run(locked) as run:
        beside = snakemake(locked, "-n", "--configfile", "mine.yaml")
        asked = snakemake(locked, "--cores", "1", "--configfile", "mine.yaml", "--", TABLE)
    said = beside.stdout + beside.stderr
    assert beside.returncode == 0 and f"(process {run}), so {TABLE} is left to it" in said
    assert "results/mine/recovery.csv" in said and "recovery_named" not in said

    assert asked.returncode == 1 and len(asked.stderr.splitlines()) <= 4
    assert "request results/mine/recovery.csv" in asked.stderr
    (living.LOCKS / "0.output.lock").unlink()
    assert "recovery_named" in snakemake(locked, "-n", "--configfile", "mine.yaml").stdout
