"""Trains a tiny model again and again, killing itself (SIGKILL) at random moments.

    python tests/unit/kill_harness.py FOLDER KILLS [float32 | bfloat16 [OPTIMIZER]]

A moment is counted before and after every optimizer step, before every sync to disk, every rename
and every removal, and in the middle of every write into the state folder: then half of the bytes
are there, and the process is gone. Children are forked from this process, which imports torch
once. Prints one JSON line: see `main`.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import torch
from small_training import HARDWARE, RECIPE, write_records
from tiny import tiny_model, tiny_tokenizer

from ablation import states, trainer
from ablation.finetune import finetune
from ablation.models import save
from ablation.precision import StochasticAdafactor
from ablation.provenance import write_json

# An epoch ends at step 7. Evaluations come between states, logged losses span two steps, a step
# spans two micro-batches; every probe is taken for a leak and recorded; a plateau ends it at 12.
RESUMED = RECIPE | {
    "max_steps": 30,
    "micro_batch_examples": 4,
    "log_steps": 2,
    "save_steps": 2,
    "eval_steps": 3,
    "stops": {
        "no_learning": {"after_steps": 10, "min_improvement": 0.01},
        "plateau": {"patience": 3, "min_delta": 9.0, "min_steps": 6},
        "leak": {"ratio": 9.0, "min_gap": -9.0, "on_leak": "record"},
    },
}


class Moments:
    """Counts moments; at the chosen one the process kills itself."""

    def __init__(self, fatal: int | None):
        self.count, self.fatal = 0, fatal

    def passed(self) -> bool:
        """Whether this moment is the fatal one."""
        self.count += 1
        return self.count == self.fatal

    def maybe_die(self) -> None:
        if self.passed():
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, act):
        """`act`, but at the fatal moment death instead."""

        def wrapped(*args, **kwargs):
            self.maybe_die()
            return act(*args, **kwargs)

        return wrapped

    def writes(self, write, path_of):
        """`write`, but at the fatal moment with half of the file, then death."""

        def wrapped(*args, **kwargs):
            fatal = self.passed()
            result = write(*args, **kwargs)
            if fatal:
                path = path_of(*args)
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped


def train(folder: Path, dtype: str, optimizer: str, fatal: int | None) -> int:
    """One attempt; returns the number of moments when it survives."""
    moments = Moments(fatal)
    kind = StochasticAdafactor if optimizer == "adafactor_bf16" else torch.optim.AdamW
    step = kind.step

    def stepped(self, *args, **kwargs):
        moments.maybe_die()
        result = step(self, *args, **kwargs)
        moments.maybe_die()
        return result

    kind.step = stepped
    torch.save = moments.writes(torch.save, lambda value, path, *a: path)
    trainer.save_model = moments.writes(trainer.save_model, lambda model, path: path)
    os.fsync = moments.before(os.fsync)
    os.replace = moments.before(os.replace)
    shutil.rmtree = moments.before(shutil.rmtree)

    tokenizer = tiny_tokenizer()

    def load():
        model = tiny_model("ministral3", vocabulary=len(tokenizer)).to(getattr(torch, dtype))
        return model, tokenizer

    with states.claimed(folder / "state"):
        data, recipe = folder.parent / "data.jsonl", RESUMED | {"optimizer": optimizer}
        tuned = finetune(load, data, recipe, 1, HARDWARE, "t", folder / "state")
        save(tuned.model, tuned.tokenizer, folder / "model")
        result = {"summary": tuned.summary, "curve": tuned.curve, "record": tuned.record}
        write_json(folder / "result.json", result)
    return moments.count


def attempt(folder: Path, dtype: str, optimizer: str, fatal: int | None) -> bool:
    """Fork one attempt; whether it survived."""
    child = os.fork()
    if child == 0:
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            (folder / "moments").write_text(str(train(folder, dtype, optimizer, fatal)))
        finally:
            os._exit(0 if (folder / "moments").exists() else 1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "the training failed instead of being killed"
    return True


def outcome(folder: Path) -> tuple:
    result = json.loads((folder / "result.json").read_text())
    return (folder / "model/model.safetensors").read_bytes(), result["summary"], result["curve"]


def main(home: Path, kills: int, dtype: str = "float32", optimizer: str = "adamw_torch") -> None:
    """Prints {moments, summary, kills: [{at, killed, equal, resumes}]} over `kills` trainings.

    `summary` is of a training that was left alone. Each of the others is killed once, and a second
    time if it then lives that long, at the moments `at`; `equal`: weights, summary and curve are,
    byte for byte, those of the one left alone, and no state is left behind.
    """
    torch.set_num_threads(1)
    home.mkdir(parents=True, exist_ok=True)
    write_records(home / "data.jsonl")
    # What every child would else do again: transformers' table of conversions, and the garbage
    # collector's walks through all that was imported.
    save(tiny_model("ministral3"), tiny_tokenizer(), home / "first")
    gc.freeze()
    whole = home / "whole"
    whole.mkdir()
    assert attempt(whole, dtype, optimizer, None)
    total, expected = int((whole / "moments").read_text()), outcome(whole)
    moments = random.Random(7)
    report = []
    for number in range(kills):
        folder = home / f"killed{number}"
        folder.mkdir()
        at = [moments.randint(1, total), moments.randint(1, total)]
        killed = 0
        while not attempt(folder, dtype, optimizer, at[killed] if killed < len(at) else None):
            killed += 1
        equal = outcome(folder) == expected and not (folder / "state").exists()
        resumes = json.loads((folder / "result.json").read_text())["record"]["resumes"]
        report.append({"at": at, "killed": killed, "equal": equal, "resumes": resumes})
        shutil.rmtree(folder)
    print(json.dumps({"moments": total, "summary": expected[1], "kills": report}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
