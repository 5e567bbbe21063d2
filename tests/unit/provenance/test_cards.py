"""Promises of the choice of cards: even, released by every end, never against a scheduler."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablation.provenance import cards
from ablation.provenance.cards import VARIABLE, own_cards

HOLD = """
import sys
from ablation.provenance import cards
cards._cards = lambda: ["GPU-a", "GPU-b"]
with cards.own_cards(1):
    import os
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A function that gives this machine so many cards; its locks are in a folder of their own."""
    monkeypatch.setattr(cards.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)

    def give(count):
        monkeypatch.setattr(cards, "_cards", lambda: [f"GPU-{n}" for n in "abcdefgh"[:count]])

    return give


def start(held, count, wanted=1):
    """Start jobs, which end with `held`, and return the cards of each."""
    found = []
    for _ in range(count):
        held.enter_context(own_cards(wanted))
        found.append(os.environ.pop(VARIABLE))
        held.callback(os.environ.__setitem__, VARIABLE, "")  # each job deletes its own
    return found


def test_jobs_are_spread_evenly_over_all_cards(machine):
    machine(4)
    with ExitStack() as held:
        found = start(held, 10)
        counts = {name: found.count(name) for name in found}
    assert sorted(counts.values()) == [2, 2, 3, 3] and len(counts) == 4
    with ExitStack() as held:  # all places are free again
        assert len(set(start(held, 4))) == 4


def test_a_job_of_two_cards_gets_those_with_the_fewest_jobs(machine):
    machine(4)
    with ExitStack() as held:
        start(held, 2)
        assert start(held, 1, wanted=2) == ["GPU-c,GPU-d"]
        assert start(held, 2, wanted=3) == ["GPU-a,GPU-b,GPU-c", "GPU-a,GPU-b,GPU-d"]


@pytest.mark.parametrize(("count", "wanted"), [(0, 1), (1, 1), (2, 2), (4, 0), (2, 4)])
def test_without_a_choice_nothing_is_changed(machine, tmp_path, count, wanted):
    machine(count)
    with own_cards(wanted):
        assert VARIABLE not in os.environ and not list(tmp_path.iterdir())


@pytest.mark.parametrize("set_by_others", ["", "1", "GPU-x"])
def test_the_choice_of_a_scheduler_stays(machine, monkeypatch, tmp_path, set_by_others):
    machine(4)
    monkeypatch.setenv(VARIABLE, set_by_others)
    with own_cards(1):
        assert os.environ[VARIABLE] == set_by_others
    assert os.environ[VARIABLE] == set_by_others and not list(tmp_path.iterdir())


def test_a_killed_job_gives_its_card_free(machine):
    machine(2)
    jobs = []
    for expected in ("GPU-a", "GPU-b"):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        jobs.append(subprocess.Popen([sys.executable, "-c", HOLD], **pipes))
        assert jobs[-1].stdout.readline().strip() == expected
    jobs[1].send_signal(signal.SIGKILL)
    jobs[1].wait()
    with ExitStack() as held:
        assert start(held, 2) == ["GPU-b", "GPU-a"]
    jobs[0].communicate("")


def test_too_many_jobs_are_told_what_to_do(machine, monkeypatch):
    machine(2)
    monkeypatch.setattr(cards, "JOBS_A_CARD", 1)
    with ExitStack() as held:
        start(held, 2)
        with pytest.raises(RuntimeError, match=r"1 jobs use each card.*--resources gpu=N"):
            held.enter_context(own_cards(1))


def test_a_folder_that_others_can_write_to_is_refused(machine, tmp_path):
    machine(2)
    folder = tmp_path / f"ablation-cards-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeError, match="can be written by others"), own_cards(1):
        pass
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RuntimeError, match="can be written by others"), own_cards(1):
        pass
    assert not list(Path(folder).iterdir())


def test_the_names_are_those_of_the_driver(monkeypatch):
    driver = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda number: f"GPU-{number}",
    )
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert cards._cards() == ["GPU-0", "GPU-1", "GPU-2"]
