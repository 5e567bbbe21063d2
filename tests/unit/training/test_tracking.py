"""Promises of trackers: they see what a training logs, and change or end no training."""

import errno
import json
import os
import threading
from types import SimpleNamespace

import pytest

from ablation.config.fields import TRACKERS
from ablation.provenance import job
from ablation.provenance.run_records import ATTEMPT, TRACKING
from ablation.provenance.storage.bucket import STORAGE
from ablation.training import tracking
from tests.support.small_training import stopped_after, write_records
from tests.support.tracked_training import FINGERPRINT, MANIFEST, announce, train

pytestmark = pytest.mark.usefixtures("one_thread")


class Recorder:
    """Stands in for the callbacks of transformers: records what it gets, and fails on request."""

    def __init__(self, run, fails_at="", error=None):
        self.run, self.fails_at, self.error, self.events = run, fails_at, error, []

    def note(self, event, args, state, logs=None):
        self.events.append((event, state.global_step, logs, args))
        if event == self.fails_at:
            raise self.error

    def on_train_begin(self, args, state, control, model=None):
        assert model.num_parameters() > 0
        self.note("begin", args, state)

    def on_log(self, args, state, control, logs):
        self.note("log", args, state, logs)

    def on_train_end(self, args, state, control):
        self.note("end", args, state)


@pytest.fixture
def here(tmp_path, data, monkeypatch):
    """An empty folder of a run with the records of finetuning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "ENVIRONMENT", {})  # it would stay in this process
    monkeypatch.setattr(tracking, "FORCED", {})
    return tmp_path


@pytest.fixture
def shown(here, monkeypatch):
    """Show trainings in a recorder named wandb; returns all recorders, one for each training."""
    made = []

    def show(fails_at="", error=None):
        def opened(run):
            if fails_at == "open":
                raise error
            made.append(Recorder(run, fails_at, error))
            return made[-1], lambda: made[-1].note("finish", None, SimpleNamespace(global_step=0))

        monkeypatch.setitem(tracking.OPEN, "wandb", opened)
        monkeypatch.setenv(TRACKING, announce("wandb")[TRACKING])
        return made

    return show


@pytest.fixture(scope="module")
def plain(tokenizer, tmp_path_factory):
    """What the training makes without trackers."""
    folder = tmp_path_factory.mktemp("plain")
    write_records(folder / "data.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return train("state", tokenizer)


def test_a_tracker_sees_every_logged_value_and_the_result_has_the_same_bytes(
    plain, shown, tokenizer, here
):
    made = shown()
    assert train("state", tokenizer) == plain
    (recorder,) = made
    events = [event for event, *_ in recorder.events]
    assert events[0] == "begin" and events[-2:] == ["end", "finish"]
    losses = [step for _, step, logs, _ in recorder.events if logs and "loss" in logs]
    assert losses == list(range(1, 9))
    assert [step for _, step, logs, _ in recorder.events if logs and "eval_loss" in logs] == [4, 8]
    args = recorder.events[0][3]
    assert (args.run_name, args.project) == ("mine/3B/seed1", "mine")
    assert recorder.run.folder == here / "logs/mine/tracking"
    assert {path.name for path in here.iterdir()} == {"data.jsonl", "logs", "state"}


def test_a_run_leads_back_to_its_manifest(shown, tokenizer):
    made = shown()
    train("state", tokenizer)
    facts = made[0].run.facts
    assert facts["ablation.manifest"] == MANIFEST
    assert facts["ablation.fingerprint"] == FINGERPRINT
    assert facts["ablation.run"].startswith(FINGERPRINT[:12])


def test_a_resumed_training_goes_on_in_its_run_and_a_new_one_does_not(plain, shown, tokenizer):
    made = shown()
    with stopped_after(5):
        train("state", tokenizer)
    assert train("state", tokenizer) == plain
    first, resumed = [recorder.run for recorder in made]
    assert first.run == resumed.run and (first.step, resumed.step) == (0, 4)
    train("another", tokenizer)
    assert made[-1].run.run != first.run


FULL = OSError(errno.ENOSPC, "No space left on device")
DOWN = ConnectionError("https://me:password@tracker.example/api: key-0123456789 was refused")


@pytest.mark.parametrize(
    ("fails_at", "error"),
    [("open", DOWN), ("begin", DOWN), ("log", FULL), ("end", SystemExit(1)), ("finish", FULL)],
    ids=["open", "begin", "log", "end", "finish"],
)
def test_a_tracker_that_fails_ends_no_training(
    plain, shown, tokenizer, fails_at, error, capsys, monkeypatch
):
    monkeypatch.setenv("WANDB_API_KEY", "key-0123456789")
    shown(fails_at, error)
    assert train("state", tokenizer) == plain
    said = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert len(said) == 1 and "the training goes on" in said[0] and type(error).__name__ in said[0]
    assert "key-0123456789" not in said[0] and "password" not in said[0]


def test_a_tracker_that_hangs_is_left_behind(plain, shown, tokenizer, capsys, monkeypatch):
    made, let_go = shown(), threading.Event()
    monkeypatch.setattr(tracking, "SECONDS_TO_CLOSE", 0.2)
    monkeypatch.setattr(tracking, "SECONDS_TO_BEGIN", 0.2)
    monkeypatch.setattr(Recorder, "on_log", lambda *_, **__: let_go.wait())
    try:
        assert train("state", tokenizer) == plain
    finally:
        let_go.set()
    assert len(made) == 1 and "wandb has not answered" in capsys.readouterr().err


STORED = json.dumps({"uri": "s3://bucket/ours", "copies": "/copies"})


@pytest.mark.parametrize(("variable", "value"), [(ATTEMPT, "run-1"), (STORAGE, STORED)])
def test_trackers_are_off_on_other_machines(
    variable, value, plain, shown, tokenizer, capsys, monkeypatch, here
):
    made = shown()
    monkeypatch.setenv(variable, value)
    assert train("state", tokenizer) == plain
    assert not made and not (here / "logs").exists()
    assert "trackers are off on other machines" in capsys.readouterr().err


def test_one_rank_of_several_shows_the_training(shown, here):
    made = shown()
    trainer = SimpleNamespace(is_world_process_zero=lambda: False)
    with tracking.tracked(trainer, "3B seed 1", 0):
        pass
    assert not made and not (here / "logs").exists()


def test_every_tracker_can_be_opened_by_name():
    assert tuple(tracking.OPEN) == TRACKERS


def test_a_job_says_which_trackers_its_study_names(monkeypatch):
    monkeypatch.setenv(TRACKING, "of an earlier job")
    this = SimpleNamespace(
        options={"tracking": ["mlflow"]},
        output={"manifest": MANIFEST},
        fingerprint={"hash": FINGERPRINT},
    )
    job._name_trackers(this)
    assert json.loads(os.environ[TRACKING]) == json.loads(announce("mlflow")[TRACKING])
    this.options = {}
    job._name_trackers(this)
    assert TRACKING not in os.environ
