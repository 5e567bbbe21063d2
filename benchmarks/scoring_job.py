"""One scoring job without Snakemake, and the seconds of its parts as JSON on its last line.

    python benchmarks/scoring_job.py [--forwards] STARTED MODEL TASKS TASK OUT HARDWARE MASK ...

STARTED is the time, in seconds since 1970, at which the process was started, and HARDWARE is the
study's `hardware:` as JSON. The seconds count from STARTED to the last file of results. With
--forwards, the forwards alone are run again afterwards, with everything ready, and timed too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> dict[str, object]:
    from measuring import seconds

    from ablation.config.study import ComputeSettings
    from ablation.interventions.loading import load_under
    from ablation.scoring.items import Items
    from ablation.scoring.job import Scoring, score
    from ablation.scoring.masked_lm import MaskedLM

    alone = arguments[0] == "--forwards"
    when, folder, tasks, task, out, hardware, *masks = arguments[alone:]
    started = float(when)
    imported = time.time() - started
    scoring = Scoring(
        ComputeSettings.model_validate_json(hardware),
        Path(folder),
        name="made_up",
        taken=None,
        trained_under=None,
        evaluation={"tasks": [task], "row_tokens": None, "batch_tokens": 512},
        data=None,
        task_folder=tasks,
        masks=masks,
        conditions=masks,
        homes=[f"{out}/{mask}" for mask in masks],
        label="scoring",
    )
    score(scoring)
    whole = time.time() - started
    each = [json.loads(Path(home, "run.json").read_text())["seconds"] for home in scoring.homes]
    found = {"job_s": whole, "imported_s": imported, "ready_s": whole - sum(each)}
    if alone:
        model, tokenizer = load_under(scoring.hardware, folder)
        (part,) = Items(tokenizer, [task], tasks).by_protocol
        found["forwards_s"] = 0.0
        for mask in masks:
            lm = MaskedLM(model, tokenizer, mask=mask, row_tokens=None)
            encoded = list(part.encoded(lm))
            found["forwards_s"] += seconds(lambda: lm.score(encoded, len(part.requests)))  # noqa: B023
        found["ratio"] = whole / found["forwards_s"]
    return {key: round(value, 2) for key, value in found.items()} | {"masks_s": each}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
