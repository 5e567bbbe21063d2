"""Promises of training on several machines: as on one, and none trains on when another is lost.

Two machines are two launches on this one (gloo, on loopback), as `srun` or a person would start
them: the job itself, and `python -m ablation.parallel.join` for the other.
"""

import dataclasses
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed

from ablation.parallel import join, launch, watch
from ablation.training.finetune import finetune
from tests import preloaded
from tests.support.small_training import HARDWARE, recipe, write_records
from tests.unit.training.test_several_ranks import RUN, die_at_step_7, load

pytestmark = pytest.mark.long
ROOT = str(Path(__file__).resolve().parents[3])
# Does what srun does with one other machine: runs the command there, and notes its own options.
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do echo "$1" >> "$0.options"; shift; done
exec "$@"
"""


@pytest.fixture(scope="module")
def machines():
    """Processes of both machines are forks of one that has imported torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(preloaded.VARIABLE, preloaded.servers())
        patch.setenv("MASTER_ADDR", launch.HOST)
        patch.syspath_prepend(preloaded.START)
        yield patch


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """The options that `srun` was called with, in an allocation of SLURM."""
    file = tmp_path / "bin/srun"
    file.parent.mkdir()
    file.write_text(SRUN)
    file.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")
    return file.with_name("srun.options")


def test_a_training_on_two_machines_is_killed_and_goes_on_as_on_one(machines, tmp_path, srun):
    torch.set_num_threads(1)
    write_records(tmp_path / "data.jsonl")
    chosen = recipe(**RUN | {"micro_batch_examples": 2, "optimizer": "adafactor", "max_steps": 8})
    chosen = chosen.model_copy(update={"stops": recipe().stops})

    def trained(name, nodes, at_start=None):
        data, loads = tmp_path / "data.jsonl", partial(load, at_start) if at_start else load
        home = tmp_path / name
        return finetune(loads, data, chosen, 1, HARDWARE, "test", home, 2, nodes=nodes)

    with pytest.raises(launch.RankFailed, match="of 2 ranks rank 1 died of SIGKILL"):
        trained("two", 2, die_at_step_7)
    assert set(srun.read_text().split()) == {*launch.srun(MEETING)[1:]}
    again, one = trained("two", 2), trained("one", 1)
    assert again.record["resumes"] == [6] and again.record["ranks"] == 2
    assert (again.summary, again.curve) == (one.summary, one.curve)
    weights = one.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in again.model.state_dict().items())
    assert not list((tmp_path / "two").glob("ranks-*"))


def test_a_job_that_was_killed_cannot_be_joined(tmp_path, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind((launch.HOST, 0))
        meeting = dataclasses.replace(MEETING, port=free.getsockname()[1])
    (tmp_path / launch.MEETING).write_text(json.dumps(dataclasses.asdict(meeting)))
    monkeypatch.setattr(join, "CONNECT_SECONDS", 1)
    assert join.main(str(tmp_path)) == 1
    assert f"no job answers at {launch.HOST}:{meeting.port}" in capsys.readouterr().err


def test_ranks_import_nothing_from_the_folder_of_the_study(tmp_path):
    (tmp_path / "colorsys.py").write_text("raise SystemExit('imported from the study')")
    with launch._rank_environment():
        subprocess.run([sys.executable, "-c", "import colorsys"], cwd=tmp_path, check=True)


MEETING = launch.Meeting(launch.HOST, 1, "name", nodes=2, ranks=1, gpu=False)


def test_srun_starts_one_task_with_its_gpus_on_each_other_machine():
    found = launch.srun(launch.Meeting("host", 1, "name", nodes=3, ranks=4, gpu=True))
    assert found == [
        *("srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--relative=1"),
        *("--kill-on-bad-exit=0", "--gpus-per-node=4"),
    ]


@pytest.mark.parametrize("killed", ["rank", "machine"])
def test_nothing_runs_on_when_a_rank_or_what_started_it_is_killed(machines, tmp_path, killed):
    script = tmp_path / ".snakemake/scripts/run.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "from tests.support.rank_jobs import hold; from ablation.parallel import launch, watch\n"
        f"watch.SILENCE = {5 if killed == 'machine' else watch.SILENCE}\n"
        f"here = {str(tmp_path)!r}\n"
        "launch.run(hold, here, ranks=2, gpu=False, nodes=2, folder=here)"
    )
    paths = os.pathsep.join([ROOT, *filter(None, sys.path)])
    options = {"env": os.environ | {"PYTHONPATH": paths}, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, str(script)], **options)
    told = ""
    while not (found := re.search(r"waiting .* 1 more machine.*\n    (.*)\n", told)):
        told += (line := first.stderr.readline())
        assert line, told
    other = subprocess.Popen(found[1].split(), **options)
    assert any("held" in line for line in first.stderr), told
    pids = {int((tmp_path / str(rank)).read_text()) for rank in range(2)}
    if killed == "machine":
        other.kill()
    else:
        os.kill(max(pids), signal.SIGKILL)
    for rank in range(2):
        with open(tmp_path / str(rank)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the rank's end
    said = first.communicate(timeout=60)[1]
    other.communicate(timeout=60)
    assert first.returncode and other.returncode
    # These ranks wait for nothing of each other, so a lost machine is known by its silence alone.
    lost = r"\(machine 2\) has not answered for 5 s"
    reason = lost if killed == "machine" else "of 2 ranks rank . died of SIGKILL; its output"
    assert re.search(f"RankFailed: .*{reason}", said), said


def test_a_machine_that_falls_silent_ends_the_ranks_of_the_others(monkeypatch):
    monkeypatch.setattr(watch, "SILENCE", 0.5)
    monkeypatch.setattr(watch, "LOOK", 0.05)
    store = distributed.TCPStore(launch.HOST, 0, is_master=True, wait_for_workers=False)
    lost = store.add("machines", 1)
    store.set(f"host/{lost}", "node7")
    store.add(f"beat/{lost}", 1)
    ended = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append((pid, number)))
    with watch.Watch(store, nodes=2) as watching:
        while not ended:
            watching._over.wait(0.05)
    assert ended == [(os.getpid(), signal.SIGTERM)]
    assert watching.why.startswith("node7 has not answered for")
