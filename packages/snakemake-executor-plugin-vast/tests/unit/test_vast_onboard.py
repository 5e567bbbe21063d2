"""What runs on a machine: the dead-man switch, states and jobs. No network."""

import errno
import http.client
import json
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.machine import deadman, onboard


def control(monkeypatch, call):
    """Replace the market's module on the machine; `call` gets "stop" or "destroy"."""
    functions = {name: partial(call, name) for name in ("stop", "destroy")}
    monkeypatch.setitem(sys.modules, "machine_control", SimpleNamespace(**functions))


def a_job_with_a_state(folder):
    """Two folders of states that the job has, of which one was removed and one holds something."""
    (folder / "job").mkdir()
    (folder / "state").mkdir()
    (folder / "state/checkpoint-1").touch()
    (folder / "job/keep").write_text(f"{folder}/none\n{folder}/state")


@pytest.mark.parametrize(
    "before, after, expected",
    [
        (True, True, "stop"),
        (True, False, "destroy"),
        (False, True, "stop"),
        (False, False, "destroy"),
    ],
)
def test_a_machine_is_kept_for_a_state_that_is_there_once_jobs_have_ended(
    tmp_path, monkeypatch, before, after, expected
):
    """A stopped machine's disk is billed until somebody ends it: a job that is done wants none."""
    now, calls = [0.0], []
    a_job_with_a_state(tmp_path)
    file = tmp_path / "state/checkpoint-1"
    if not before:
        file.unlink()

    def sleep(seconds):
        now[0] += seconds
        if seconds == 5:  # the grace in which jobs save, or remove, what they have
            file.touch() if after else file.unlink(missing_ok=True)
        if calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(deadman.time, "sleep", sleep)
    monkeypatch.setattr(deadman.time, "monotonic", lambda: now[0])
    control(monkeypatch, calls.append)
    with pytest.raises(KeyboardInterrupt):
        deadman.main(str(tmp_path), 30, 5, 1000, 1e6, 10)
    assert calls == [expected]


def test_the_switch_hears_the_lease_whatever_its_clock_says(tmp_path, monkeypatch):
    """It ends the machine by the changes of the lease that it sees, not by their times."""
    now, calls = [0.0], []

    def sleep(seconds):
        now[0] += seconds
        if now[0] < 100:
            (tmp_path / "lease").write_text(str(now[0]))  # touched: its time changes
        if calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(deadman.time, "sleep", sleep)
    monkeypatch.setattr(deadman.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(deadman, "touched", lambda path: deadman_time(path))

    def deadman_time(path):
        file = Path(path)
        return hash(file.read_text()) if file.exists() and file.name == "lease" else 0

    monkeypatch.setattr(deadman.time, "time", lambda: 0.0)
    control(monkeypatch, lambda action: calls.append((action, now[0])))
    a_job_with_a_state(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        deadman.main(str(tmp_path), 30, 5, 1000, 1e6, 10)
    [(action, when)] = calls
    assert action == "stop" and 120 <= when <= 150


def test_neither_a_full_disk_nor_half_an_answer_breaks_the_switch(tmp_path, monkeypatch):
    """Both would leave the machine running, and billed, with nobody who looks after it."""
    now, calls = [0.0], []
    a_job_with_a_state(tmp_path)
    (tmp_path / "lease").touch()

    def full(path, mode="r", **text):
        """There is room for a name, none for what is to stand in it."""
        if mode == "r":
            return open(path, **text)
        Path(path).touch()
        return open("/dev/full", mode)

    def sleep(seconds):
        now[0] += seconds
        if len(calls) == 2:
            raise KeyboardInterrupt

    def fail(action):
        calls.append(action)
        raise http.client.BadStatusLine("")

    monkeypatch.setattr(deadman, "open", full, raising=False)
    monkeypatch.setattr(deadman.time, "sleep", sleep)
    monkeypatch.setattr(deadman.time, "monotonic", lambda: now[0])
    control(monkeypatch, fail)
    with pytest.raises(KeyboardInterrupt):
        deadman.main(str(tmp_path), 30, 5, 1000, 1e6, 10)
    assert calls == ["stop", "stop"]


def test_only_whole_parts_of_a_state_are_linked(tmp_path):
    state = tmp_path / "state"
    for name, sealed in (("checkpoint-3", True), ("checkpoint-6", False)):
        (state / name).mkdir(parents=True)
        (state / name / "weights").write_text(name)
        if sealed:
            (state / name / onboard.SEAL).touch()
    (state / "resumes").write_text("3\n")
    taken = onboard.snapshot("", {"state": str(state)})
    assert taken == {"there": True, "parts": ["checkpoint-3", "resumes"]}
    copy = tmp_path / "state.home"
    assert (copy / "checkpoint-3/weights").read_text() == "checkpoint-3"
    (state / "resumes").unlink()  # replaced by rename, as the trainer does
    (state / "resumes").write_text("3\n6\n")
    assert (copy / "resumes").read_text() == "3\n"
    assert onboard.snapshot("", {"state": str(tmp_path / "none")}) == {"there": False}


@pytest.mark.parametrize("part", ["checkpoint-3/complete", "note"])
def test_a_part_of_a_state_that_cannot_be_linked_does_not_count_as_removed(
    tmp_path, monkeypatch, part
):
    """Otherwise the copy on this computer, perhaps the only one soon, would be removed."""
    (tmp_path / "state" / part).parent.mkdir(parents=True)
    (tmp_path / "state" / part).touch()

    def no_links(*_, **__):
        raise OSError(errno.EPERM, "this file system has no hard links")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OSError, match="no hard links"):
        onboard.snapshot("", {"state": str(tmp_path / "state")})


def test_the_mark_of_a_state_moves_with_its_seals(tmp_path):
    state = tmp_path / "state"
    assert onboard.mark(str(state)) == []
    (state / "checkpoint-1").mkdir(parents=True)
    before = onboard.mark(str(state))
    (state / "checkpoint-1/weights").touch()
    assert onboard.mark(str(state)) == before == []
    (state / "checkpoint-1" / onboard.SEAL).touch()
    assert onboard.mark(str(state)) != before


def job(tmp_path, command, **facts):
    request = {"command": command, "workdir": str(tmp_path), "environment": {}, "outputs": []}
    request |= {"extras": [], "inputs": [], "remove": [], "states": []} | facts
    folder = tmp_path / "jobs/1"
    answer = onboard.start(str(folder), request)
    return folder, answer, request


def exit_of(folder):
    while not (folder / "exit.json").exists():
        assert onboard.alive(folder) or (folder / "exit.json").exists()
    return json.loads((folder / "exit.json").read_text())


def test_a_job_leaves_its_exit_code_and_the_hashes_of_what_it_made(tmp_path):
    old = tmp_path / "out"
    old.mkdir()
    (old / "stale").touch()
    made = {"outputs": ["out", "none"], "environment": {"WORD": "hi"}, "remove": [str(old)]}
    made["extras"] = ["a.log", "no.tsv"]  # a job may leave its log or not
    folder, answer, request = job(tmp_path, "mkdir out; echo $WORD | tee out/file a.log", **made)
    assert answer == {"started": True}
    done = exit_of(folder)
    assert done["code"] == 0 and done["missing"] == ["none"]
    assert list(done["files"]) == ["out/file", "a.log"]
    assert onboard.start(str(folder), request) == {"started": False}  # its reply was lost
    seen = onboard.look(str(folder), {"offset": 0, "states": []})
    assert seen["output"] == "hi\n" and seen["exit"]["code"] == 0


def test_a_job_is_ended_with_all_its_children(tmp_path):
    folder, _, _ = job(tmp_path, "sleep 1000 & wait")
    assert onboard.alive(folder)
    assert onboard.end(str(folder), {"grace": 5}) == {"alive": False}
    assert not (folder / "exit.json").exists()


def test_a_link_is_no_output_and_is_never_recorded(tmp_path):
    (tmp_path / "secret").write_text("s")
    made = {"outputs": ["out", "alone"], "extras": ["log"]}
    command = "mkdir out; touch out/.file; ln -s ../secret out/link; ln -s out alone; ln -s out log"
    folder, _, _ = job(tmp_path, command, **made)
    done = exit_of(folder)
    assert done["missing"] == ["alone"] and list(done["files"]) == ["out/.file"]
    assert done["links"] == ["out/link", "alone"], "they stay on the machine, which is told"
