"""Compares scores with those of stock lm_eval in float32, request by request, on real items.

    python benchmarks/agreement.py MODEL DATA_FOLDER [--items 200] [--device cpu] [TASK ...]

Prints, for each task, the largest relative difference of a log-likelihood and both accuracies, and
exits 1 if a difference exceeds 1e-4 or an accuracy differs.
"""

from __future__ import annotations

import argparse
import json
import sys

import lm_eval
import numpy as np
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ablation.config.study import ComputeSettings
from ablation.interventions.loading import load_under
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from ablation.scoring.local_copies import local_copies
from ablation.vocabulary.masks import CAUSAL

TASKS = ("hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")
TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data_folder")
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--items", type=int, default=200, help="of each task, from the first")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    gpu = int(args.device == "cuda")
    hardware = ComputeSettings(gpu=gpu, threads=args.threads, instructions=None, dtype="float32",
                               compile=False, attention="sdpa")  # fmt: skip
    model, tokenizer = load_under(hardware, args.model)
    items = Items(tokenizer, args.tasks, "config/tasks", args.data_folder, args.items)
    ours = evaluate(model, items, CAUSAL, row_tokens=512, batch_tokens=2048)
    with local_copies(args.data_folder):
        manager = TaskManager(include_path="config/tasks", include_defaults=False)
        stock = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=16),
            tasks=list(args.tasks),
            task_manager=manager,
            limit=args.items,
            bootstrap_iters=0,
        )
    failed = False
    for task in args.tasks:
        rows = ours.samples[ours.samples.task == task].sort_values(["doc_id", "choice"])
        logged = sorted(stock["samples"][task], key=lambda sample: sample["doc_id"])
        theirs = np.array([float(r[0][0]) for sample in logged for r in sample["resps"]])
        error = float(np.max(np.abs(rows.loglikelihood.to_numpy() / theirs - 1)))
        accuracies = ours.facts["lm_eval"][task]
        expected = {name: stock["results"][task][f"{name},none"] for name in accuracies}
        failed |= error > TOLERANCE or accuracies != expected
        found = {"task": task, "requests": len(theirs), "largest_relative_difference": error}
        print(json.dumps(found | {"accuracies": accuracies, "stock": expected}), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
