"""Kills the process that started a training, as `kill -9` of Snakemake does, and trains again.

    python -m tests.support.orphan FOLDER

Prints one JSON line: `ended`, the error with which the first training ended; `saved`, the steps of
its checkpoints; `equal`, whether the second training ended with the bits of one without any kill.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import ablation.training.finetune as module
from ablation.training.checkpoints import claimed, complete_checkpoints
from tests.support.kill_harness import RESUMED
from tests.support.small_training import HARDWARE, write_records
from tests.support.tiny import tiny_model, tiny_tokenizer

RECIPE = RESUMED.model_copy(update={"save_steps": 20})  # the training ends before


class KillsParent(module.Watch):
    """Kills the parent at the end of step 3, between two steps that are logged."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            parent = os.getppid()
            os.kill(parent, signal.SIGKILL)
            while os.getppid() == parent:
                pass
        super().on_step_end(args, state, control, **kwargs)


def train(home: Path) -> list:
    tokenizer = tiny_tokenizer()

    def load():
        return tiny_model("ministral3", vocabulary=len(tokenizer)), tokenizer

    with claimed(home):
        tuned = module.finetune(load, home.parent / "data.jsonl", RECIPE, 1, HARDWARE, "t", home)
    weights = {name: tensor.tolist() for name, tensor in tuned.model.state_dict().items()}
    return [weights, tuned.summary, tuned.curve]


def orphan(home: Path, answer: int) -> None:
    """Train in a process whose parent is killed; write how the training ended to `answer`."""
    if os.fork() == 0:
        module.Watch = KillsParent
        try:
            train(home)
            ended = "with a result"
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"
        os.write(answer, ended.encode())
        os._exit(0)
    signal.pause()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    write_records(folder / "data.jsonl")
    answer, to_answer = os.pipe()
    parent = os.fork()
    if parent == 0:
        orphan(folder / "killed", to_answer)
    os.close(to_answer)
    with open(answer, encoding="utf-8") as pipe:
        ended = pipe.read()  # until the orphan has ended
    os.waitpid(parent, 0)
    saved = [int(c.name.split("-")[1]) for c in complete_checkpoints(folder / "killed")]
    equal = train(folder / "killed") == train(folder / "whole")
    print(json.dumps({"ended": ended, "saved": saved, "equal": equal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
