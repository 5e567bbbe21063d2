"""Whole scoring jobs, from the start of a process to its results; sections of gpu.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import scoring_job as ours
import yaml
from workload import SMALL, Size, make_items

from ablation.config.study import RandomBase
from ablation.model.bpe_tokenizer import random_tokenizer
from ablation.model.random_base import write_random_base
from ablation.vocabulary.masks import MASKS

HERE = Path(__file__).parent
TASK = "made_up"
LM_EVAL_BATCHES = (128, 256)  # near the fastest (LOG.md; `scoring_hflm`): commands take minutes


@cache
def place() -> Path:
    """The folder of models, items and compile caches, for this process."""
    return Path(tempfile.mkdtemp(prefix="ablation-jobs-"))


@cache
def compile_imports() -> None:
    """Have the bytecode of what both programs import, as after an installation by pip.

    Without it, in packages that were copied, imports take three times as long.
    """
    modules = (
        "lm_eval.models.huggingface, ablation.scoring.evaluate, ablation.interventions.loading"
    )
    _run([sys.executable, "-c", f"import {modules}"], {})


def prepared(name: str, size: Size) -> tuple[Path, Path]:
    """The folders of a random model of a name's shape, and of a task file with items for it."""
    shape = shapes(size)[name]
    if not size.toy:
        compile_imports()
    folder = place() / name
    if not folder.is_dir():
        write_random_base(shape, folder / "model")
        tokenizer = random_tokenizer(shape.seed, shape.vocabulary)
        used = len(tokenizer)
        (folder / "tasks").mkdir()
        with (folder / "items.jsonl").open("w") as file:
            for number, item in enumerate(make_items(size, size.job_items)):
                texts = [
                    tokenizer.decode([20 + i % (used - 20) for i in ids])
                    for ids in (item.prompt, *item.continuations)
                ]
                row = {"query": texts[0], "choices": texts[1:], "label": number % 4}
                file.write(json.dumps(row) + "\n")
        task = {
            "task": TASK,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{query}}",
            "doc_to_target": "{{label}}",
            "doc_to_choice": "{{choices}}",
            "metric_list": [{"metric": "acc"}],
        }
        (folder / "tasks" / f"{TASK}.yaml").write_text(yaml.safe_dump(task))
    return folder / "model", folder / "tasks"


def job(name: str, size: Size, caches: str, masks: tuple[str, ...], forwards: bool = False) -> dict:
    """One of our jobs; `caches` names the folder of its compiled kernels.

    forwards: whether the forwards are run alone afterwards.
    """
    model, tasks = prepared(name, size)
    hardware = json.dumps(size.hardware.affecting_results() | {"instructions": None})
    (place() / "out").mkdir(exist_ok=True)
    arguments = ["--forwards"] * forwards + [str(time.time())]
    arguments += [str(model), str(tasks), TASK, str(place() / "out"), hardware, *masks]
    if size.toy:
        return ours.main(arguments)
    kept = {
        "TORCHINDUCTOR_CACHE_DIR": f"{place()}/{caches}",
        "TRITON_CACHE_DIR": f"{place()}/{caches}",
    }
    said = _run([sys.executable, str(HERE / "scoring_job.py"), *arguments], kept)
    return json.loads(said.splitlines()[-1])


def lm_eval_command(name: str, size: Size, batch: int) -> float:
    """Seconds of the `lm_eval` command on the same items, under `causal`, to its results file."""
    model, tasks = prepared(name, size)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", TASK]
    command += ["--model_args", f"pretrained={model},dtype={size.hardware.dtype}"]
    command += ["--include_path", str(tasks), "--batch_size", str(batch)]
    command += ["--output_path", str(place() / "lm_eval"), "--device", size.device]
    started = time.time()
    _run(command, {})
    ended = max(p.stat().st_mtime for p in (place() / "lm_eval").rglob("results_*.json"))
    return round(ended - started, 2)


def _run(command: list[str], variables: dict[str, str]) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} | variables
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # images of containers often set it
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {ran.stderr[-2000:]}")
    return ran.stdout


def shapes(size: Size) -> dict[str, RandomBase]:
    """{name of a model: its shape}; each is a section of its own, since it takes minutes."""
    return {"toy": size.shape} if size.toy else {"135M": SMALL, "3.4B": size.shape}


def scoring_job(name: str, size: Size) -> dict:
    """A job under all masks, with an empty cache of compiled kernels and with a filled one.

    The forwards are run alone once, after the second job.
    """
    if size.toy:
        return {"toy": job(name, size, "", MASKS, forwards=True)}
    first = job(name, size, f"job-{name}", MASKS)
    last = job(name, size, f"job-{name}", MASKS, forwards=True)
    first["ratio"] = round(first["job_s"] / last["forwards_s"], 2)
    return {"empty_cache": first, "filled_cache": last}


def end_to_end(name: str, size: Size) -> dict:
    """A job under one mask against the `lm_eval` command, which knows `causal` only.

    The first job finds an empty cache of compiled kernels and fills it.
    """

    def taken(mask: str) -> float:
        return float(job(name, size, f"one-{name}", (mask,))["job_s"])

    ours_s = {} if size.toy else {"empty_cache": taken(MASKS[0])}
    ours_s |= {mask: taken(mask) for mask in MASKS[:2]}
    if size.toy:  # its command needs seconds to come up
        return {"ours_s": ours_s}
    batches = {str(b): lm_eval_command(name, size, b) for b in LM_EVAL_BATCHES}
    best = min(batches.values())
    ratios = {of: round(best / seconds, 2) for of, seconds in ours_s.items()}
    return {"ours_s": ours_s, "lm_eval_s": best, "by_batch_size": batches, "ratio": ratios}
