"""Trains a tiny model several times and kills each training (SIGKILL) at random moments.

    python -m tests.support.kill_harness FOLDER KILLS[:DTYPE[:OPTIMIZER]] ...

for example `20` or `12 4:bfloat16:adafactor_bf16`. DTYPE is float32 or bfloat16.

Moments are before and after every optimizer step, before every sync to disk, every rename and every
deletion, and in the middle of every write into the folder of checkpoints, which leaves half of the
bytes. Children are forked from this process, which imports torch once. Prints one JSON line for
each argument after the folder, see `kill`.
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

from ablation.model.checkpoints import save
from ablation.provenance.files import write_json
from ablation.training import checkpoints, resumable_trainer
from ablation.training.finetune import finetune
from ablation.training.optimizers.stochastic_adafactor import StochasticAdafactor
from tests.support.small_training import HARDWARE, recipe, write_records
from tests.support.tiny import tiny_model, tiny_tokenizer

# An epoch ends at step 7. Evaluations come between checkpoints, logged losses cover two steps, and
# a step two micro-batches. Every probe counts as a leak and is recorded. A plateau ends the
# training at step 12.
RESUMED = recipe(
    max_steps=30,
    micro_batch_examples=4,
    log_steps=2,
    save_steps=2,
    eval_steps=3,
    stops={
        "no_learning": {"after_steps": 10, "min_improvement": 0.01},
        "plateau": {"patience": 3, "min_delta": 9.0, "min_steps": 6},
        "leak": {"ratio": 9.0, "min_gap": -9.0, "on_leak": "record"},
    },
)


class Moments:
    """Counts moments and kills the process at the chosen one."""

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
        """`act`, which kills the process instead at the fatal moment."""

        def wrapped(*args, **kwargs):
            self.maybe_die()
            return act(*args, **kwargs)

        return wrapped

    def writes(self, write, path_of):
        """`write`, which at the fatal moment writes half of the file and kills the process."""

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
    """Run one attempt; return the number of moments if it survives."""
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
    save_model = moments.writes(resumable_trainer.save_model, lambda model, path: path)
    resumable_trainer.save_model = save_model
    os.fsync = moments.before(os.fsync)
    os.replace = moments.before(os.replace)
    shutil.rmtree = moments.before(shutil.rmtree)

    tokenizer = tiny_tokenizer()

    def load():
        model = tiny_model("ministral3", vocabulary=len(tokenizer)).to(getattr(torch, dtype))
        return model, tokenizer

    with checkpoints.claimed(folder / "state"):
        data, chosen = folder.parent / "data.jsonl", {"optimizer": optimizer}
        changed = RESUMED.model_copy(update=chosen)
        tuned = finetune(load, data, changed, 1, HARDWARE, "t", folder / "state")
        save(tuned.model, tuned.tokenizer, folder / "model")
        result = {"summary": tuned.summary, "curve": tuned.curve, "record": tuned.record}
        write_json(folder / "result.json", result)
    return moments.count


def attempt(folder: Path, dtype: str, optimizer: str, fatal: int | None) -> bool:
    """Fork one attempt; return whether it survived."""
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


def kill(home: Path, kills: int, dtype: str = "float32", optimizer: str = "adamw_torch") -> dict:
    """Return {moments, summary, kills: [{at, killed, equal, resumes}]} for `kills` trainings.

    `summary` is that of a training that was not killed. Each of the others is killed at the first
    moment of `at`, and again at the second if it lives that long. `equal` tells whether its
    weights, summary and curve have the same bytes as those of the training that was not killed,
    and no checkpoint is left.
    """
    home.mkdir(parents=True)
    write_records(home / "data.jsonl")
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
    return {"moments": total, "summary": expected[1], "kills": report}


def main(home: Path, kinds: list[str]) -> None:
    """Print what `kill` returns for each of `kinds`, in a folder of its own."""
    torch.set_num_threads(1)
    # Done here so that no child repeats it: transformers' table of conversions, and the garbage
    # collector's passes over imported objects.
    save(tiny_model("ministral3"), tiny_tokenizer(), home / "first")
    gc.freeze()
    for number, kind in enumerate(kinds):
        kills, *how = kind.split(":")
        print(json.dumps(kill(home / str(number), int(kills), *how)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
