"""Training and scoring on several GPUs of one machine; sections of gpu.py.

    python benchmarks/gpu.py --only one_gpu two_gpus four_gpus

`one_gpu` measures the same work on one of them, in the same way, so that ratios are of one machine.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from gpu_training import Clock, compile_widths, run_trainer, timed_recipe
from measuring import free, peak_gib, seconds
from workload import (
    CONFIG,
    STUDY,
    Size,
    as_ids,
    make_items,
    make_model,
    make_samples,
    make_tokenizer,
)

from ablation.config.load import load_study
from ablation.config.recipes import Adapter
from ablation.interventions.adapters import add_adapter
from ablation.parallel import launch
from ablation.parallel.collectives import gathered, rank, ranks
from ablation.scoring.masked_lm import MaskedLM
from ablation.training.trainer_arguments import custom_optimizer, sharded_optimizer

EIGHT_B_LENGTH = 256  # tokens of an example
SKIPPED = 3  # steps before the clock: they compile what is left, and fill caches


def works(size: Size, count: int) -> dict[str, tuple[int, int, bool]]:
    """{work: (examples of an optimizer step, timed steps, keep_gathered) on `count` GPUs}.

    The first two are the same work for any number of GPUs (strong scaling): the published step, and
    about 64 thousand tokens. The third grows with their number (weak scaling). GPUs that share
    weights keep them gathered (`hardware.keep_gathered`), but not in the last one.
    """
    wide, steps, keeps = size.throughput_examples, size.steps, count > 1
    many = steps if size.toy else 50 - SKIPPED
    found = {
        "published": (16, many, keeps),
        "tokens_64k": (4 * wide, steps, keeps),
        "weak_16k_a_gpu": (wide * count, steps, keeps),
    }
    return found | ({"tokens_64k_again": (4 * wide, steps, False)} if keeps else {})


def train(
    size: Size,
    batch: int,
    timed: int,
    keep_gathered: bool,
    length: int | None = None,
    adapter: Adapter | None = None,
) -> dict:
    """Optimizer steps of `batch` examples on the ranks that there are; each of them calls it.

    length: that of each example. adapter: trained instead of all weights, by AdamW.
    """
    skipped = 1 if size.toy else SKIPPED
    steps = skipped + timed
    recipe, clock, count = timed_recipe(steps, batch), Clock(skipped), ranks()
    recipe = recipe.model_copy(update={"log_steps": max(1, steps // 2)})
    samples, model = make_samples(size, batch * steps, length), make_model(size)
    if adapter is not None:
        recipe = recipe.model_copy(update={"optimizer": "adamw_torch"})
        add_adapter(model, adapter)
    row_tokens, micro = size.row_tokens[0], batch // count
    optimizer = (sharded_optimizer if count > 1 else custom_optimizer)(recipe)
    trainer = run_trainer(
        *(size, model, samples, recipe, optimizer, row_tokens, clock, micro, count),
        before=lambda trainer: compile_widths(trainer.model, samples, batch, row_tokens),
        keep_gathered=keep_gathered,
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = clock.tokens / clock.steps
    return {
        "keep_gathered": keep_gathered,
        "step_s": round(clock.took, 4),
        "tokens_per_step": round(tokens),
        "tokens_per_s": round(tokens / clock.took),
        "loss": losses[-1],
        "peak_gib": gathered(peak_gib()),
        "reserved_gib": gathered(peak_gib(torch.cuda.max_memory_reserved)),
    }


def score(size: Size) -> dict:
    """Items a second of the study's mask, shared out by rows; each rank calls it."""
    items = make_items(size, size.items * (1 if size.toy else 4))
    options = {"row_tokens": STUDY.evaluation.row_tokens or (256 if size.toy else None)}
    lm = MaskedLM(make_model(size), make_tokenizer(size), mask="prefill_bidir", **options)
    ids = as_ids(items)
    first = lm._loglikelihood_tokens(ids)  # compiles
    again: list = []
    gathered(None)  # all ranks begin together
    took = seconds(lambda: again.extend(lm._loglikelihood_tokens(ids)))
    return {
        "items_per_s": round(len(items) / took, 2),
        "sum": sum(value for value, _ in again),
        "repeatable": first == again,
        "peak_gib": gathered(peak_gib()),
    }


def measure(size: Size, count: int) -> dict:
    """All works, one after the other; each of `count` ranks calls it."""
    trained = {}
    for name, work in works(size, count).items():
        trained[name] = train(size, *work)
        free()
        if rank() == 0:  # a later one may fail
            print(name, trained[name], file=sys.stderr, flush=True)
    return {"gpus": count, "training": trained, "scoring": score(size)}


def on_gpus(count: int, size: Size) -> dict:
    """All of that on `count` GPUs; in the toy, on as many processes."""
    if not size.toy and torch.cuda.device_count() < count:
        raise RuntimeError(f"{torch.cuda.device_count()} GPUs found, {count} are needed")
    if count == 1:
        return measure(size, count)
    return launch.run(measure, size, count, ranks=count, gpu=not size.toy)


def eight_b(size: Size) -> dict:
    """An 8 B model: all weights trained on two GPUs, and an adapter on one of them.

    A step has 16 examples of 256 tokens, or 64.
    """
    if not size.toy:
        shape = load_study({"extends": "rehearsal8b.yaml"}, CONFIG).random
        size = replace(size, shape=shape)
    length = 16 if size.toy else EIGHT_B_LENGTH
    adapter = Adapter(kind="lora", r=16, alpha=32, targets=["q_proj", "v_proj"])
    full = launch.run(train_both, size, length, ranks=2, gpu=not size.toy)
    return {"full_on_two": full, "lora_on_one": train_both(size, length, adapter)}


def train_both(size: Size, length: int, adapter: Adapter | None = None) -> dict:
    """Steps of 16 and of 64 examples; each rank calls it."""
    found = {}
    for batch in (16, 64):
        found[str(batch)] = train(size, batch, size.steps, False, length, adapter)
        free()
    return found


def one_gpu(size: Size) -> dict:
    return on_gpus(1, size)


def two_gpus(size: Size) -> dict:
    return on_gpus(2, size)


def four_gpus(size: Size) -> dict:
    return on_gpus(4, size)


def scaling(sections: dict) -> dict:
    """{number of GPUs: {work: its efficiency}}, as a share of as many times the speed of one.

    Of the step that grows with the number of GPUs too: tokens a second are compared.
    """
    one, found = sections.get("one_gpu"), {}
    for section in ("two_gpus", "four_gpus"):
        if one is None or section not in sections:
            continue
        several = sections[section]
        count = several["gpus"]
        shares = {
            work: shared["tokens_per_s"] / alone["tokens_per_s"] / count
            for work, shared in several["training"].items()
            if (alone := one["training"].get(work.removesuffix("_again")))
        }
        rates = [section["scoring"]["items_per_s"] for section in (several, one)]
        shares["scoring"] = rates[0] / rates[1] / count
        found[str(count)] = {work: round(share, 3) for work, share in shares.items()}
    return found
