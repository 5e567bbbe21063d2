"""Scoring and training of a 3.4 B model on one GPU, beside what a user would do otherwise.

    python benchmarks/gpu.py [--out benchmarks/results/h100.json] [--seconds 1500] [--only NAME ...]
    python benchmarks/gpu.py --toy      # the same at toy size, on a CPU: it runs, it means nothing

One section after the other; a finished one is kept in <out>.sections.json and not run again on the
same machine, driver and commit. No section is begun after --seconds. Exits 1 while one is missing.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from workload import (
    FULL,
    TOY,
    Size,
    as_ids,
    as_strings,
    make_items,
    make_model,
    make_samples,
    make_tokenizer,
)

from ablation import finetune
from ablation.lm import MaskedLM
from ablation.models import compile_layers, target_logits
from ablation.packing import Example, forwards
from ablation.provenance import processor
from ablation.stops import Stops

MASKS = ("causal", "prefill_bidir")
LONGEST = 16_384  # tokens that a scorer takes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/h100.json"))
    parser.add_argument("--toy", action="store_true", help="toy size, on a CPU")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", nargs="*", help="names of sections")
    parser.add_argument("--commit", help="of the code, where there is no git")
    args = parser.parse_args()
    size, started = (TOY if args.toy else FULL), time.monotonic()

    kept = args.out.with_suffix(".sections.json")
    identity = identify(size, args.commit)
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    if {k: done.get(k) for k in identity} != identity:
        done = identity | {"sections": {}}
    for name, section in SECTIONS.items():
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
    args.out.write_text(json.dumps(report(done), indent=1) + "\n")
    return int(any(name not in done["sections"] for name in SECTIONS))


def identify(size: Size, commit: str | None) -> dict:
    """What must be equal for sections to belong together."""
    if commit is None:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    machine, driver = processor(), "none"
    if size.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        machine, driver = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    return {"machine": machine, "driver": driver, "commit": commit}


def report(done: dict) -> dict:
    """The sections as one record, by the names that the issue gives."""
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
        "sections": sections,
    }


# --- measuring ------------------------------------------------------------------------------------


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0.0


def seconds(work: Callable[[], object]) -> float:
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def rate(count: int, work: Callable[[], object], repeats: int = 3) -> float:
    """`count` a second, the median of `repeats` after one to warm up."""
    work()
    return round(count / statistics.median(seconds(work) for _ in range(repeats)), 2)


def machine(size: Size) -> dict:
    """Rates of a bfloat16 matrix product and of a copy."""
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


# --- scoring --------------------------------------------------------------------------------------


def our_scorer(size: Size, mask: str, **options) -> tuple[MaskedLM, torch.nn.Module]:
    model = make_model(size, size.attention)
    if not size.toy:
        compile_layers(model)
    options = {"row_tokens": None, "max_length": LONGEST} | options
    return MaskedLM(model, make_tokenizer(size), mask=mask, **options), model


def scoring_hflm(size: Size) -> dict:
    """Stock lm-eval at several batch sizes."""
    model, tokenizer = make_model(size, "sdpa"), make_tokenizer(size)
    items = make_items(size, size.items)
    found = {}
    for batch_size in (2,) if size.toy else (64, 128, 256):
        stock = peers.hflm(model, tokenizer, batch_size)
        stock._loglikelihood_tokens(as_ids(items[:64]), disable_tqdm=True)
        work = lambda: stock._loglikelihood_tokens(as_ids(items), disable_tqdm=True)  # noqa: B023, E731
        found[str(batch_size)] = round(len(items) / seconds(work), 2)
    best = max(found, key=found.get)
    stock, requests = peers.hflm(model, tokenizer, int(best)), as_strings(items)
    strings = seconds(lambda: stock.loglikelihood(requests, disable_tqdm=True))
    return {
        "best": found[best],
        "batch_size": int(best),
        "by_batch_size": found,
        "from_strings": round(len(items) / strings, 2),
        "peak_gib": peak_gib(),
    }


def scoring_seed_loop(size: Size) -> dict:
    """One choice a forward."""
    model, items = make_model(size, "sdpa"), make_items(size, size.loop_items)
    peers.score_one_by_one(model, items[:2])
    taken = seconds(lambda: peers.score_one_by_one(model, items))
    return {"items_per_s": round(len(items) / taken, 3), "items": len(items)}


def scoring_ours(size: Size) -> dict:
    """This repository's scorer under both masks."""
    items = make_items(size, size.items)
    lm, _ = our_scorer(size, MASKS[0])
    ids, strings, found = as_ids(items), as_strings(items), {}
    for mask in MASKS:
        lm.mask = mask
        begun = time.perf_counter()
        lm._loglikelihood_tokens(ids)
        found[f"{mask}_first_s"] = round(time.perf_counter() - begun, 1)  # compiles
        found[mask] = rate(len(items), lambda: lm._loglikelihood_tokens(ids))
        found[f"{mask}_from_strings"] = rate(len(items), lambda: lm.loglikelihood(strings))
    tokens = sum(len(i.prompt) + sum(map(len, i.continuations)) for i in items)
    return found | {"row_tokens": lm.row_tokens, "tokens": tokens, "peak_gib": peak_gib()}


def scoring_error(size: Size) -> dict:
    """|difference| / |log-likelihoods| against the same weights computed in float32."""
    items = make_items(size, size.checked_items)
    ids, tokenizer = as_ids(items), make_tokenizer(size)

    def loglikelihoods(lm) -> torch.Tensor:
        return torch.tensor([x for x, _ in lm._loglikelihood_tokens(ids, disable_tqdm=True)])

    lm, model = our_scorer(size, MASKS[0])
    ours = {}
    for mask in MASKS:
        lm.mask = mask
        ours[mask] = loglikelihoods(lm)
    del lm, model
    model = make_model(size, "sdpa")
    stock = loglikelihoods(peers.hflm(model, tokenizer, 16))
    plain = copy.deepcopy(model).float()
    exact = MaskedLM(plain, tokenizer, row_tokens=512, batch_tokens=2048)
    reference = {}
    for mask in MASKS:
        exact.mask = mask
        reference[mask] = loglikelihoods(exact)

    def error(found: torch.Tensor, mask: str) -> float:
        return float(f"{((found - reference[mask]).norm() / reference[mask].norm()).item():.3g}")

    return {
        "ours": error(ours["causal"], "causal"),
        "ours_prefill_bidir": error(ours["prefill_bidir"], "prefill_bidir"),
        "hflm": error(stock, "causal"),
        "items": len(items),
    }


def scoring_growth(size: Size) -> dict:
    """Items and tokens a second at 1, 2, 4 times the work, by prompt length and row width."""
    lm, _ = our_scorer(size, "prefill_bidir")
    found = {"work": [], "prompt": [], "row": []}

    def measured(items: list[Example]) -> dict:
        ids = as_ids(items)
        tokens = sum(len(i.prompt) + sum(map(len, i.continuations)) for i in items)
        per_s = rate(len(items), lambda: lm._loglikelihood_tokens(ids), repeats=2)
        return {
            "items": len(items),
            "items_per_s": per_s,
            "tokens_per_s": round(per_s * tokens / len(items)),
        }

    for times in (1, 2, 4):
        found["work"].append({"times": times} | measured(make_items(size, times * size.items)))
    for prompt in size.prompt_lengths:
        count = max(4, size.growth_tokens // (prompt + 112))
        found["prompt"].append(
            {"prompt_tokens": prompt} | measured(make_items(size, count, prompt))
        )
    for row_tokens in (256,) if size.toy else (4096, 8192, 16_384):
        lm.row_tokens = row_tokens
        found["row"].append({"row_tokens": row_tokens} | measured(make_items(size, size.items)))
    return found


# --- training -------------------------------------------------------------------------------------


class Clock(TrainerCallback):
    """Seconds an optimizer step, over all steps after the first `skip`."""

    def __init__(self, skip: int):
        self.skip, self.start, self.steps, self.took, self.tokens = skip, 0.0, 0, 0.0, 0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.skip:
            wait()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.start, self.tokens = time.perf_counter(), state.num_input_tokens_seen
        elif state.global_step == args.max_steps:
            wait()
            self.steps = args.max_steps - self.skip
            self.took = (time.perf_counter() - self.start) / self.steps
            self.tokens = state.num_input_tokens_seen - self.tokens


RECIPE = {
    "train_mask": "prefill_bidir",
    "max_seq_len": 1024,
    "learning_rate": 2e-5,
    "weight_decay": 0.1,
    "adam_beta2": 0.98,
    "warmup_steps": 2,
    "schedule": "linear",
    "optimizer": "adamw_bf16",
    "max_grad_norm": 1.0,
    "log_steps": 1000,
    "save_steps": 1000,
    "eval_steps": 1000,
    "eval_samples": 1,
    "stops": {"no_learning": None, "plateau": None, "leak": None},
}


def train(
    size: Size, model, samples: list[Example], batch: int, row_tokens: int, skip: int
) -> dict:
    """Optimizer steps of `batch` samples by this repository's trainer."""
    steps = len(samples) // batch
    recipe = RECIPE | {"max_steps": steps, "batch_examples": batch}
    hardware, clock = {"gpu": int(not size.toy)}, Clock(skip)
    with tempfile.TemporaryDirectory() as state:
        arguments = finetune.training_arguments(recipe, 0, hardware, state, batch)
        arguments.save_strategy = arguments.eval_strategy = "no"
        trainer = finetune.MaskedTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            optimizer_cls_and_kwargs=finetune._own_optimizer(recipe),
            recipe=recipe,
            row_tokens=row_tokens,
            probe=[],
            stops=Stops(recipe["stops"]),
            callbacks=[clock],
        )
        begun = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - begun
    responses = sum(len(s.continuations[0]) for s in samples)
    share = responses / (responses + sum(len(s.prompt) for s in samples))
    tokens = clock.tokens / clock.steps
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters()) - head
    flops = 6 * tokens * (body + share * head)  # real tokens; logits of supervised ones
    return {
        "step_s": round(clock.took, 4),
        "tokens_per_step": round(tokens),
        "tokens_per_s": round(tokens / clock.took),
        "model_tflops": round(flops / clock.took / 1e12, 1),
        "peak_gib": peak_gib(),
        "timed_steps": clock.steps,
        "first_steps_s": round(whole - clock.took * clock.steps, 1),  # compile
    }


def our_trained(size: Size):
    model = make_model(size, size.attention)
    if not size.toy:
        compile_layers(model)
    return model


def training_16(size: Size) -> dict:
    """A step of 16 Alpaca-length samples."""
    skip = 1 if size.toy else 6
    samples = make_samples(size, 16 * (skip + 3 * size.steps))
    return train(size, our_trained(size), samples, 16, size.row_tokens, skip)


def training_16k(size: Size) -> dict:
    """A step of about 16 thousand tokens."""
    batch, skip = size.throughput_examples, 1 if size.toy else 4
    samples = make_samples(size, batch * (skip + 2 * size.steps))
    return train(size, our_trained(size), samples, batch, size.row_tokens, skip)


def training_check(size: Size) -> dict:
    """Loss and gradients of one batch by the fast path, against dense masks and all logits."""
    samples, losses, gradients = make_samples(size, 12), [], []
    for fast in (True, False):
        model = make_model(size, size.attention if fast else "sdpa").train()
        if fast and not size.toy:
            compile_layers(model)
        targets = sum(len(s.continuations[0]) for s in samples)
        total = 0.0
        for rows in forwards(samples, size.row_tokens, fixed=fast and not size.toy):
            rows = rows.to(size.device)
            if fast:
                loss, _ = finetune.summed_loss(model, rows, "prefill_bidir")
            else:
                logits = target_logits(model, rows, "prefill_bidir").float()
                loss = cross_entropy(logits, rows.target_id, reduction="sum")
            (loss / targets).backward()
            total += loss.item() / targets
        losses.append(total)
        gradients.append([p.grad for p in model.parameters()])
        del model
    pairs = list(zip(*gradients, strict=True))
    difference = sum(float((a - b).float().norm()) ** 2 for a, b in pairs) ** 0.5
    length = sum(float(b.float().norm()) ** 2 for _, b in pairs) ** 0.5
    return {
        "loss_fast": losses[0],
        "loss_plain": losses[1],
        "gradient_relative_difference": float(f"{difference / length:.3g}"),
    }


def training_seed(size: Size) -> dict:
    """The published way: a sample a forward, dense mask, checkpointing, Adafactor."""
    model = make_model(size, "sdpa").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer, samples = peers.adafactor(model), make_samples(size, 48)
    peers.step_one_by_one(model, optimizer, samples[:16])
    taken = [
        seconds(lambda s=s: peers.step_one_by_one(model, optimizer, samples[s : s + 16]))
        for s in (16, 32)
    ]
    return {"step_s": round(statistics.mean(taken), 3), "peak_gib": peak_gib()}


def training_trl(size: Size) -> dict:
    """TRL's SFTTrainer, its ways side by side; the best is the peer."""
    if size.toy or importlib.util.find_spec("trl") is None:
        return {"best": None, "why": "trl is not installed"}
    found = {}
    for attention, liger in (("flex_attention", False), ("flex_attention", True)):
        name = attention + ("_liger" if liger else "")
        try:
            clock = Clock(3)
            peers.trl_trainer(size, attention, liger, 7, clock).train()
            found[name] = {
                "tokens_per_s": round(4 * 4096 / clock.took),
                "step_s": round(clock.took, 3),
                "peak_gib": peak_gib(),
            }
        except Exception as error:
            found[name] = {"tokens_per_s": 0, "error": f"{type(error).__name__}: {error}"[:500]}
        free()
    return {"best": max(f["tokens_per_s"] for f in found.values()), "ways": found}


def training_growth(size: Size) -> dict:
    """Tokens a second at 1, 2, 4 times the step, and by sample length at one size of step."""
    model, found = our_trained(size), {"work": [], "length": []}
    skip, steps = (1, 2) if size.toy else (3, 8)
    for times in (1, 2, 4):
        samples = make_samples(size, 16 * times * steps)
        measured = train(size, model, samples, 16 * times, size.row_tokens, skip)
        found["work"].append({"times": times} | measured)
        free()
    for length in size.prompt_lengths:
        batch = max(1, size.throughput_examples * 160 // length)
        row_tokens = max(size.row_tokens, length)
        samples = make_samples(size, batch * (skip + 3), length)
        measured = train(size, model, samples, batch, row_tokens, skip)
        found["length"].append({"sample_tokens": length} | measured)
        free()
    return found


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
    )
}


if __name__ == "__main__":
    sys.exit(main())
