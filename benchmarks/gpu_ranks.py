"""Training and scoring on several GPUs of one machine; sections of gpu.py.

    python benchmarks/gpu.py --only one_gpu two_gpus four_gpus

`one_gpu` measures the same work on one of them, in the same way, so that ratios are of one machine.
"""

from __future__ import annotations

from functools import partial

import torch
from gpu_training import Clock, compile_widths, run_trainer, timed_recipe
from measuring import peak_gib, seconds
from workload import STUDY, Size, as_ids, make_items, make_model, make_samples, make_tokenizer

from ablation.parallel import launch
from ablation.parallel.collectives import gathered, ranks
from ablation.scoring.masked_lm import MaskedLM
from ablation.training.trainer_arguments import custom_optimizer, sharded_optimizer

SKIPPED = 3  # steps before the clock: they compile, and fill caches


def batches(size: Size, count: int) -> dict[str, int]:
    """{work: examples of an optimizer step on `count` GPUs}.

    The first two are the same work for any number of GPUs (strong scaling): the published step, and
    about 64 thousand tokens. The third grows with their number (weak scaling).
    """
    wide = size.throughput_examples
    return {"published": 16, "tokens_64k": 4 * wide, "weak_16k_a_gpu": wide * count}


def train(size: Size, batch: int) -> dict:
    """Optimizer steps of `batch` examples on the ranks that there are; each of them calls it."""
    skipped = 1 if size.toy else SKIPPED
    steps = skipped + size.steps
    recipe, clock, count = timed_recipe(steps, batch), Clock(skipped), ranks()
    recipe = recipe.model_copy(update={"log_steps": 1})
    samples, model = make_samples(size, batch * steps), make_model(size)
    row_tokens = size.row_tokens[0]
    if count == 1:
        compile_widths(model, samples, batch, row_tokens)
    optimizer = (sharded_optimizer if count > 1 else custom_optimizer)(recipe)
    micro = batch // count
    trainer = run_trainer(size, model, samples, recipe, optimizer, row_tokens, clock, micro, count)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = clock.tokens / clock.steps
    return {
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


def on_gpus(count: int, size: Size) -> dict:
    """All of that on `count` GPUs; in the toy, on as many processes."""
    gpu = not size.toy
    if gpu and torch.cuda.device_count() < count:
        raise RuntimeError(f"{torch.cuda.device_count()} GPUs found, {count} are needed")

    def measured(work, *arguments) -> dict:
        found: dict = {}
        run = partial(work, *arguments)
        if count > 1:
            run = partial(launch.run, work, *arguments, ranks=count, gpu=gpu)
        whole = seconds(lambda: found.update(run()))
        return found | {"with_start_s": round(whole, 1)}

    trained = {name: measured(train, size, n) for name, n in batches(size, count).items()}
    return {"gpus": count, "training": trained, "scoring": measured(score, size)}


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
            work: several["training"][work]["tokens_per_s"] / of_one["tokens_per_s"] / count
            for work, of_one in one["training"].items()
        }
        rates = [section["scoring"]["items_per_s"] for section in (several, one)]
        shares["scoring"] = rates[0] / rates[1] / count
        found[str(count)] = {work: round(share, 3) for work, share in shares.items()}
    return found
