"""Shows a training in trackers while it runs, through the Trainer's own callbacks (`report_to`).

A tracker never changes or ends a training. Its callback runs in a thread of its own, gets copies of
what is logged, and is dropped with one line if it fails. At the end of a training it has
`SECONDS_TO_CLOSE` to write what is left. This module is in no code hash: it changes no number.
"""

from __future__ import annotations

import copy
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from textwrap import shorten
from threading import Event, Thread
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ablation.provenance.run_records import ATTEMPT, TRACKING
from ablation.provenance.storage.bucket import Storage

SECONDS_TO_BEGIN = 30.0  # of each tracker
SECONDS_TO_CLOSE = 30.0  # of all together
RUN = "tracked"  # in the folder of checkpoints: the run with which a resumed training goes on
ENVIRONMENT = {
    # A prompt or a long wait would block only this thread, and nothing would be recorded.
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB_FINISH_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # What is not about the training stays here: console, git remote and diff, source code.
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder is the only store that several jobs can begin
}
# These would put hooks on the model, or upload weights.
FORCED = {"WANDB_WATCH": "false", "WANDB_LOG_MODEL": "false", "HF_MLFLOW_LOG_ARTIFACTS": "false"}
CREDENTIAL = re.compile("KEY|TOKEN|SECRET|PASSWORD|WEBHOOK")


@dataclass(frozen=True)
class TrackedRun:
    """One training as trackers name it.

    name: study, recipe and seed.
    manifest, fingerprint: the manifest that the training will have, and the hash in it.
    run: unique to this training; it stays the same when the training is resumed.
    step: the last step of former attempts, 0 if there was none.
    folder: where the files of all trackers are.
    """

    study: str
    name: str
    manifest: str
    fingerprint: str
    run: str
    step: int
    folder: Path

    @property
    def facts(self) -> dict[str, str]:
        """What leads from the tracker back to the results."""
        own = {"manifest": self.manifest, "fingerprint": self.fingerprint, "run": self.run}
        return {f"ablation.{name}": value for name, value in own.items()}


@contextmanager
def tracked(trainer: Trainer, label: str, step: int) -> Iterator[None]:
    """Show what `trainer` logs in the block in the trackers of this job's study.

    label: recipe and seed, as in progress lines. step: the last step of former attempts.
    """
    asked = json.loads(os.environ.get(TRACKING, "null"))
    if not asked or not trainer.is_world_process_zero():
        yield
        return
    if os.environ.get(ATTEMPT) or Storage.of_run():  # a rented machine, or a pod of a cluster
        print(f"{label}: trackers are off on other machines (docs/tracking.md)", file=sys.stderr)
        yield
        return
    run = _run(asked, label, step, Path(trainer.args.output_dir or ""))
    os.environ |= {k: v for k, v in ENVIRONMENT.items() if k not in os.environ} | FORCED
    trackers = []
    for name in asked["trackers"]:
        trackers.append(Tracker(name, run, label))
        trackers[-1].settle()  # imports in several threads at once can wait for each other forever
        trainer.add_callback(trackers[-1])
    try:
        yield
    finally:
        until = time.monotonic() + SECONDS_TO_CLOSE
        for tracker in trackers:
            trainer.remove_callback(tracker)
            tracker.close()
        for tracker in trackers:
            tracker.wait(until)


def _run(asked: dict[str, Any], label: str, step: int, home: Path) -> TrackedRun:
    file = home / RUN
    if step and file.is_file():
        run = file.read_text("ascii")
    else:
        run = f"{asked['fingerprint'][:12]}-{secrets.token_hex(3)}"
        file.write_text(run, "ascii")
    study = asked["study"]
    name = f"{study}/{label.replace(' seed ', '/seed').replace(' ', '/')}"
    folder = Path("logs", study, "tracking").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return TrackedRun(study, name, asked["manifest"], asked["fingerprint"], run, step, folder)


class Tracker(TrainerCallback):
    """Passes the events of a training to the callback of one tracker, in a thread."""

    def __init__(self, name: str, run: TrackedRun, label: str) -> None:
        self.name, self.run, self.label = name, run, label
        self._events: SimpleQueue[tuple | Event | None] = SimpleQueue()
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def on_train_begin(self, args: TrainingArguments, *rest: Any, **given: Any) -> None:
        self._pass_on("on_train_begin", args, *rest, model=given.get("model"))
        self.settle()

    def on_log(self, args: TrainingArguments, *rest: Any, **given: Any) -> None:
        self._pass_on("on_log", args, *rest, logs=dict(given.get("logs") or {}))

    def on_train_end(self, args: TrainingArguments, *rest: Any, **given: Any) -> None:
        self._pass_on("on_train_end", args, *rest)

    def _pass_on(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        if self._thread.is_alive():
            own = copy.copy(args)  # checkpoints keep the Trainer's
            own.project, name = self.run.study, self.run.name
            # trackio tells runs apart by their names alone
            own.run_name = f"{name} {self.run.run}" if self.name == "trackio" else name
            now = copy.copy(state), copy.copy(control)
            self._events.put((event, (own, *now), given))

    def settle(self) -> None:
        """Wait until the thread has done what it was given, but at most `SECONDS_TO_BEGIN`."""
        done, until = Event(), time.monotonic() + SECONDS_TO_BEGIN
        self._events.put(done)
        while self._thread.is_alive() and time.monotonic() < until and not done.wait(0.02):
            pass

    def close(self) -> None:
        """Let the thread end when it has written everything."""
        self._events.put(None)

    def wait(self, until: float) -> None:
        """Wait for the thread, but not longer than `until` on the monotonic clock."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._say(f"has not answered for {SECONDS_TO_CLOSE:.0f} seconds and is left behind")

    def _serve(self) -> None:
        try:
            callback, finish = OPEN[self.name](self.run)
            while event := self._events.get():
                if isinstance(event, Event):
                    event.set()
                    continue
                name, arguments, given = event
                getattr(callback, name)(*arguments, **given)
            finish()
        except (Exception, SystemExit) as error:
            reason = without_secrets(f"{type(error).__name__}: {error}".splitlines()[0])
            self._say(f"records nothing more ({shorten(reason, 160)})")

    def _say(self, text: str) -> None:
        print(f"{self.label}: {self.name} {text}; the training goes on", file=sys.stderr)


def without_secrets(text: str) -> str:
    """`text` without the values of variables that hold credentials, and without those of URLs."""
    for name, value in os.environ.items():
        if CREDENTIAL.search(name) and len(value) > 5:
            text = text.replace(value, f"<{name}>")
    return re.sub(r"://[^/@\s]+@", "://", text)


# ---- the trackers: each makes the run, so that its name and facts are ours, and returns the
# ---- callback of transformers and what ends the run

Opened = tuple[TrainerCallback, Callable[[], object]]


def _callback(name: str, *arguments: Any) -> TrainerCallback:
    (kind,) = get_reporting_integration_callbacks([name])
    made: TrainerCallback = kind(*arguments)
    return made


def _tensorboard(run: TrackedRun) -> Opened:
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard" / run.name.partition("/")[2] / run.run
    # Points of steps that run again are replaced.
    writer = SummaryWriter(str(folder), purge_step=run.step + 1 if run.step else None)
    for name, value in run.facts.items():
        writer.add_text(name, value)
    return _callback("tensorboard", writer), writer.close


def _trackio(run: TrackedRun) -> Opened:
    os.environ.setdefault("TRACKIO_DIR", str(run.folder / "trackio"))
    import trackio

    callback: Any = _callback("trackio")  # it begins the run itself, and ends it
    begin = callback.setup

    def setup(*arguments: Any, **given: Any) -> None:
        begin(*arguments, **given)
        trackio.config.update(run.facts)

    callback.setup = setup
    return callback, lambda: None


def _wandb(run: TrackedRun) -> Opened:
    online = bool(os.environ.get("WANDB_API_KEY"))  # without one, wandb would ask at the terminal
    os.environ.setdefault("WANDB_MODE", "online" if online else "offline")
    import wandb

    wandb.init(
        project=os.environ.get("WANDB_PROJECT", run.study), name=run.name, id=run.run,
        resume="allow", config=run.facts, dir=str(run.folder),
    )  # fmt: skip
    return _callback("wandb"), wandb.finish


def _mlflow(run: TrackedRun) -> Opened:
    os.environ.setdefault("MLFLOW_TRACKING_URI", (run.folder / "mlflow").as_uri())
    import mlflow

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", run.study))
    same = f"tags.`ablation.run` = '{run.run}'"
    former = mlflow.search_runs(filter_string=same, output_format="list") if run.step else []
    if former:
        mlflow.start_run(run_id=former[0].info.run_id)
    else:
        mlflow.start_run(run_name=run.name, tags=run.facts)
    return _callback("mlflow"), mlflow.end_run


OPEN: dict[str, Callable[[TrackedRun], Opened]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
