"""A tiny training that is shown in trackers, stopped after step 5 and resumed from step 4.

    python -m tests.support.tracked_training FOLDER TRACKER,...

It runs in FOLDER and prints, as JSON, hashes of what it made with trackers and without, and the
seconds of each.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch

from ablation.provenance.run_records import TRACKING
from ablation.training.finetune import finetune
from tests.support.small_training import HARDWARE, recipe, stopped_after, write_records
from tests.support.tiny import tiny_model, tiny_tokenizer

MANIFEST = "results/mine/stage3_finetune/3B/seed1/manifest.json"
FINGERPRINT = "ab" * 32


def announce(*trackers):
    """What a job says of its trackers, in the variable TRACKING."""
    said = {"trackers": trackers, "study": "mine", "manifest": MANIFEST, "fingerprint": FINGERPRINT}
    return {TRACKING: json.dumps(said)}


def train(home, tokenizer):
    """The hash of the weights, the summary and the curve of a training in `home`."""
    torch.set_num_threads(1)

    def load():
        return tiny_model("ministral3", vocabulary=len(tokenizer)), tokenizer

    chosen = recipe(max_steps=8, save_steps=4, eval_steps=4)
    tuned = finetune(load, "data.jsonl", chosen, 1, HARDWARE, "3B seed 1", home)
    weights = {n: t.numpy().tobytes() for n, t in tuned.model.state_dict().items()}
    made = hashlib.sha256(b"".join(n.encode() + weights[n] for n in sorted(weights)))
    made.update(json.dumps([tuned.summary, tuned.curve]).encode())
    return made.hexdigest()


def main(folder, trackers):
    os.chdir(folder)
    write_records(Path("data.jsonl"))
    tokenizer, found, seconds = tiny_tokenizer(), {}, {}
    for kind in ("plain", "tracked"):
        os.environ.pop(TRACKING, None)
        os.environ |= announce(*trackers.split(",")) if kind == "tracked" else {}
        began = time.monotonic()
        with stopped_after(5):
            train(kind, tokenizer)
        found[kind] = train(kind, tokenizer)
        seconds[kind] = round(time.monotonic() - began, 1)
    print(json.dumps({"made": found, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
