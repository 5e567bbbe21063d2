"""Promises of resuming: a training killed at any moment ends with the bits of one that was not."""

import importlib.util
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from snakemake_executor_plugin_vast.machine import onboard

import ablation.training.finetune as module
from ablation.provenance.files import write_json, write_json_lines
from ablation.provenance.fingerprints import make_fingerprint
from ablation.provenance.job import Job
from ablation.provenance.manifests import write_manifest
from ablation.provenance.run_records import run_record
from ablation.training.checkpoints import claimed, lost_steps, record_step
from tests.support.kill_harness import RESUMED
from tests.support.small_training import HARDWARE, write_records
from tests.support.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[3]


KILLED = {"5:float32": 5, "2:bfloat16": 2, "2:bfloat16:adafactor_bf16": 2}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What came of trainings of each kind that were killed at random moments."""
    home = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_harness", str(home), *KILLED],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(KILLED, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("kind, kills", KILLED.items())
def test_killed_trainings_end_bit_equal(killed, kind, kills):
    report = killed[kind]
    whole = report["summary"]
    assert (whole["stop_reason"], whole["steps"]) == ("plateau", 12) and whole["epochs"] > 1
    assert whole["leak_alarms"] == [3, 6, 9]  # at 12 the plateau came first
    assert len(report["kills"]) == kills
    assert all(kill["killed"] for kill in report["kills"])
    assert not [kill for kill in report["kills"] if not kill["equal"]]
    assert len({step for kill in report["kills"] for step in kill["resumes"]}) > 1
    assert all(len(kill["resumes"]) <= kill["killed"] for kill in report["kills"])


def test_a_training_whose_snakemake_was_killed_saves_itself_and_loses_no_step(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.orphan", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert "SnakemakeEnded" in report["ended"] and "saved up to step 4" in report["ended"]
    assert report["saved"] == [4] and report["equal"]
    assert "steps run again" not in done.stderr


class Killed(BaseException):
    pass


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A training in `tmp_path / name`; `until`: its death, an exception at that step's end."""
    torch.set_num_threads(1)
    write_records(tmp_path / "data.jsonl")
    tokenizer = tiny_tokenizer()
    on_step_end = module.Watch.on_step_end

    def load():
        return tiny_model("ministral3", vocabulary=len(tokenizer)), tokenizer

    def trained(name, until=None):
        def dying(self, args, state, control, **kwargs):
            on_step_end(self, args, state, control, **kwargs)
            if state.global_step == until:
                raise Killed

        monkeypatch.setattr(module.Watch, "on_step_end", dying)
        home = tmp_path / name
        with claimed(home):
            data = tmp_path / "data.jsonl"
            return module.finetune(load, data, RESUMED, 1, HARDWARE, "test", home)

    return trained


def test_a_resumed_training_has_seen_what_its_stops_go_by(train, monkeypatch):
    watches = []

    class Seen(module.Stops):
        def __init__(self, *rules):
            super().__init__(*rules)
            watches.append(self)

    monkeypatch.setattr(module, "Stops", Seen)
    train("whole")
    for step in (5, 11):
        with pytest.raises(Killed):
            train("killed", until=step)
    train("killed")
    whole, *_, resumed = map(asdict, watches)
    assert whole == resumed
    assert whole["evaluations_without_gain"] == 3 and whole["reason"] == "plateau"


def test_a_resumed_training_says_how_many_steps_are_lost(train, capsys):
    """Every second step has a checkpoint, which is saved after the end of the step."""
    lost = []
    for until in (1, 5, 8, None):
        with nullcontext() if until is None else pytest.raises(Killed):
            train("state", until)
        lost.append([line for line in capsys.readouterr().err.splitlines() if "ended at" in line])
    begin = "test: an earlier attempt was ended at step"
    assert lost[0] == []
    assert lost[1][0].startswith(f"{begin} 1; going on from step 0, so 1 steps run again")
    assert lost[2][0].startswith(f"{begin} 5; going on from step 4, so 1 steps run again")
    assert lost[3][0].startswith(f"{begin} 8; going on from step 6, so 2 steps run again")
    assert [len(lines) for lines in lost] == [0, 1, 1, 1]


def test_a_step_without_a_checkpoint_gives_executors_nothing_to_save(tmp_path):
    """They save a state when it changes; here they would send all of it again and again."""
    state = tmp_path / "state"
    with claimed(state, keep=True):
        record_step(state, 1)
        before = onboard.mark(str(state))
        record_step(state, 2)
        assert onboard.mark(str(state)) == before
        assert onboard.snapshot("", {"state": str(state)})["parts"] == ["lock"]
        assert lost_steps(state) == 2


def test_the_loss_curves_mark_every_resume(train, tmp_path, monkeypatch):
    for step in (3, 4, 9):
        with pytest.raises(Killed):
            train("state", until=step)
    tuned = train("state")
    assert tuned.record["resumes"] == [2, 2, 8]
    assert "resumes" not in tuned.summary

    monkeypatch.chdir(tmp_path)
    home, script = Path("stage3_finetune/3B/seed1"), ROOT / "workflow/scripts/curves.py"
    write_json(home / "summary.json", tuned.summary)
    write_json_lines(home / "curve.jsonl", tuned.curve)
    with run_record(home / "run.json") as record:
        record |= tuned.record
    below = make_fingerprint("stage3_finetune", script, {}, ())
    outputs = [home / "summary.json", home / "curve.jsonl"]
    write_manifest(home / "manifest.json", below, outputs, recipe="3B")
    upstream = {str(home / "manifest.json"): below}
    fingerprint = make_fingerprint("curves", script, {"study": "t"}, (), upstream)
    spec = importlib.util.spec_from_file_location("curves_script", script)
    curves = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curves)

    def marks():
        snakemake = SimpleNamespace(
            input=[],
            output=SimpleNamespace(table="curves.csv", manifest="curves.manifest.json"),
            params={"fingerprint": json.dumps(fingerprint)},
            wildcards={},
            rule="curves",
            config={},
            resources={},
        )
        curves.main(Job(snakemake, only=curves.READ))
        table = pd.read_csv("curves.csv")
        return table[table.event == "resumed"].step.tolist()

    assert marks() == [2, 2, 8]
    (home / "run.json").unlink()
    assert marks() == []
