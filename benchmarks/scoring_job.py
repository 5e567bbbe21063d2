"""One scoring job without Snakemake, and the seconds of its parts as JSON on its last line.

    python benchmarks/scoring_job.py MODEL TASKS TASK OUT HARDWARE MASK [MASK ...]

HARDWARE is the study's `hardware:` as JSON. The seconds count from the start of the process to the
last file of results; the forwards alone are run again afterwards, with everything ready.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import psutil


def main(arguments: Sequence[str], started: float | None = None) -> dict[str, float]:
    started = psutil.Process().create_time() if started is None else started
    from measuring import seconds

    from ablation.config.study import ComputeSettings
    from ablation.interventions.loading import load_under
    from ablation.scoring.evaluate import evaluate
    from ablation.scoring.items import Items
    from ablation.scoring.masked_lm import MaskedLM

    folder, tasks, task, out, hardware, *masks = arguments
    imported = time.time() - started
    model, tokenizer = load_under(ComputeSettings.model_validate_json(hardware), folder)
    loaded = time.time() - started
    items = Items(tokenizer, [task], tasks)
    built = time.time() - started
    sizes = {"row_tokens": None if model.device.type == "cuda" else 256}
    each = []
    for mask in masks:
        begun = time.time()
        evaluate(model, items, mask, **sizes).write(out)
        each.append(round(time.time() - begun, 2))
    whole = time.time() - started
    (part,) = items.by_protocol
    forwards = 0.0
    for mask in masks:
        lm = MaskedLM(model, tokenizer, mask=mask, **sizes)
        forwards += seconds(lambda: lm.score(part.encoded(lm), len(part.requests)))  # noqa: B023
    found = {"job_s": whole, "imported_s": imported, "loaded_s": loaded, "items_built_s": built}
    found |= {"forwards_s": forwards, "ratio": whole / forwards}
    return {key: round(value, 2) for key, value in found.items()} | {"masks_s": each}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
