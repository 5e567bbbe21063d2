"""Scoring, generation and training of a 3.4 billion weight model on one GPU, with alternatives.

    python benchmarks/gpu.py [--out benchmarks/results/h100.json] [--seconds 1500] [--only NAME ...]
    python benchmarks/gpu.py --only one_gpu two_gpus four_gpus eight_b  # with several GPUs
    python benchmarks/gpu.py --toy      # the same at toy size on a CPU; its numbers mean nothing

One section after the other; a finished one is kept in <out>.sections.json and not run again on the
same machine, driver and commit. No section is begun after --seconds. Exits 1 while one is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from gpu_generation import generation_hflm, generation_ours
from gpu_jobs import end_to_end, scoring_job, shapes
from gpu_long_prompts import long_prompts
from gpu_ranks import eight_b, four_gpus, one_gpu, scaling, two_gpus
from gpu_scoring import scoring_error, scoring_growth, scoring_hflm, scoring_ours, scoring_seed_loop
from gpu_training import (
    training_16,
    training_16k,
    training_check,
    training_growth,
    training_seed,
    training_trl,
)
from measuring import free, rate
from workload import FULL, TOY, Size

from ablation.provenance.run_records import processor_name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/h100.json"))
    parser.add_argument("--toy", action="store_true", help="toy size, on a CPU")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", nargs="*", help="names of sections")
    parser.add_argument("--commit", help="of the code, where there is no git")
    args = parser.parse_args(arguments)
    size, started = (TOY if args.toy else FULL), time.monotonic()

    kept = args.out.with_suffix(".sections.json")
    identity = identify(size, args.commit)
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    if {k: done.get(k) for k in identity} != identity:
        done = identity | {"sections": {}}
    sections = sections_of(size)
    for name, section in sections.items():
        if name in done["sections"] or (args.only and name not in args.only):
            continue
        if time.monotonic() - started > args.seconds:
            break
        begun = time.monotonic()
        try:
            found = section(size)
        except Exception as error:  # the others may still be measured
            print(f"{name}: {type(error).__name__}: {error}"[:3000], file=sys.stderr, flush=True)
            if size.toy:
                raise
            continue
        finally:
            free()
        found["section_seconds"] = round(time.monotonic() - begun, 1)
        done["sections"][name] = found
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(done, indent=1))
        print(name, json.dumps(found), flush=True)
    args.out.write_text(json.dumps(report(done, size), indent=1) + "\n")
    return int(any(name not in done["sections"] for name in sections))


def identify(size: Size, commit: str | None) -> dict:
    """The circumstances that must be equal for all sections of one record."""
    if commit is None:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    machine, driver = processor_name(), "none"
    if size.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        machine, driver = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    return {"machine": machine, "driver": driver, "commit": commit}


def report(done: dict, size: Size) -> dict:
    """All sections as one record."""
    sections = done["sections"]

    def at(section: str, key: str):
        return sections.get(section, {}).get(key)

    libraries = ("torch", "transformers", "lm_eval", "triton", "trl", "liger-kernel", "accelerate")
    versions = {}
    for name in libraries:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "machine": {"name": done["machine"], "driver": done["driver"]}
        | {k: v for k, v in sections.get("machine", {}).items() if k != "section_seconds"},
        "commit": done["commit"],
        "libraries": versions,
        "scoring": {
            "items_per_s": {
                "ours_causal": at("scoring_ours", "causal"),
                "ours_prefill_bidir": at("scoring_ours", "prefill_bidir"),
                "hflm": at("scoring_hflm", "best"),
                "seed_loop": at("scoring_seed_loop", "items_per_s"),
            },
            "relative_error": {
                "ours": at("scoring_error", "ours"),
                "hflm": at("scoring_error", "hflm"),
            },
        },
        "generation": {
            "texts_per_s": {
                "ours_causal": at("generation_ours", "causal"),
                "ours_prefill_bidir": at("generation_ours", "prefill_bidir"),
                "hflm": at("generation_hflm", "best"),
            },
        },
        "training": {
            "step16_s": {
                "ours": at("training_16", "step_s"),
                "seed": at("training_seed", "step_s"),
            },
            "tokens_per_s": {
                "ours": at("training_16k", "tokens_per_s"),
                "trl": at("training_trl", "best"),
            },
            "model_tflops": at("training_16k", "model_tflops"),
            "peak_gib": at("training_16k", "peak_gib"),
        },
        "efficiency": scaling(sections),
        "job_items": size.job_items,
        **{
            job: {
                name: {k: v for k, v in found.items() if k != "section_seconds"}
                for name in shapes(size)
                if (found := sections.get(f"{job} {name}"))
            }
            for job in JOBS
        },
        "sections": sections,
    }


def machine(size: Size) -> dict:
    """The rates of a bfloat16 matrix product and of a copy."""
    n = size.matrix
    a, b = (torch.randn(n, n, device=size.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    products = rate(10 * 2 * n**3, lambda: [torch.mm(a, b, out=out) for _ in range(10)], repeats=5)
    big = torch.randn(16 * n * n, device=size.device)
    other = torch.empty_like(big)
    copied = rate(2 * 4 * big.numel(), lambda: other.copy_(big), repeats=5)
    return {
        "matmul_tflops": round(products / 1e12, 1),
        "copy_gb_per_s": round(copied / 1e9, 1),
        "matrix": n,
    }


SECTIONS = {
    s.__name__: s
    for s in (
        machine,
        scoring_ours,
        training_16k,
        training_16,
        training_check,
        scoring_hflm,
        scoring_seed_loop,
        scoring_error,
        training_seed,
        training_trl,
        scoring_growth,
        training_growth,
        generation_ours,
        generation_hflm,
        long_prompts,
    )
}
JOBS = {job.__name__: job for job in (scoring_job, end_to_end)}


def sections_of(size: Size) -> dict[str, Callable[[Size], dict]]:
    """{name: section}, in the order in which they are run.

    Sections of several GPUs are left out on a machine with fewer.
    """
    jobs = ((job, shape) for job in JOBS for shape in shapes(size))
    found = SECTIONS | {f"{job} {shape}": partial(JOBS[job], shape) for job, shape in jobs}
    here = 2 if size.toy else torch.cuda.device_count()
    several = {2: two_gpus, 4: four_gpus}
    fitting = {section.__name__: section for n, section in several.items() if n <= here}
    return found | ({"one_gpu": one_gpu} | fitting | {"eight_b": eight_b} if fitting else {})


if __name__ == "__main__":
    sys.exit(main())
