"""Training by this repository and by others; functions of one argument are sections of gpu.py."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable

import peers
import torch
from measuring import free, peak_gib, seconds, wait
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from workload import STUDY, Size, make_model, make_samples

from ablation.config.study import Recipe, StopRules
from ablation.model.forward import target_logits
from ablation.model.masks import uses_fixed_rows
from ablation.model.packing import WIDTHS, Example, forwards, pack, token_count
from ablation.training.early_stopping import Stops
from ablation.training.fsdp import with_whole_weights
from ablation.training.trainer import MaskedTrainer, summed_loss
from ablation.training.trainer_arguments import custom_optimizer, training_arguments

RECIPE = STUDY.recipes["3B"]
MEMORY_GIB = 38.0  # at most this is reserved, so that a card of 40 GB suffices


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


def timed_recipe(steps: int, batch: int) -> Recipe:
    """The study's 3B without evaluations and early stopping."""
    looks = dict.fromkeys(("log_steps", "save_steps", "eval_steps"), 1000)
    stops = StopRules(no_learning=None, plateau=None, leak=None)
    length = {"max_steps": steps, "warmup_steps": 2, "batch_examples": batch}
    return RECIPE.model_copy(update=length | looks | {"eval_samples": 1, "stops": stops})


def compile_widths(model, samples: list[Example], batch: int, row_tokens: int) -> None:
    """One forward and backward of each width that rows will have: they compile on first use."""
    model.train()
    step = row_tokens // WIDTHS
    widths = set(range(step, row_tokens + 1, step))
    if len({token_count(s) for s in samples}) == 1:
        first = forwards(samples[:batch], row_tokens, uses_fixed_rows(model))
        widths = {rows.input_ids.shape[1] for rows in first}
    for width in sorted(widths):
        fitting = next((s for s in samples if token_count(s) <= width), None)
        if fitting is not None:
            rows = pack([fitting], width, width=width).to(model.device)
            loss, _ = with_whole_weights(model, summed_loss, rows, RECIPE.train_mask)
            loss.backward()
            model.zero_grad()  # beside sums in float32 nothing is compiled


def compile_optimizer(model, kind: type[torch.optim.Optimizer], settings: dict) -> None:
    """A step of a weight of each shape, with gradients of one forward and of several."""
    for weight in {p.shape: p for p in model.parameters()}.values():
        for forwards_a_step in (1, 2):
            copy = torch.nn.Parameter(weight.detach().clone())
            optimizer = kind([copy], **settings)
            for _ in range(forwards_a_step):
                copy.square().sum().backward()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()


def run_trainer(
    size: Size,
    model,
    samples: list[Example],
    recipe: Recipe,
    optimizer: tuple[type, dict],
    row_tokens: int,
    clock: Clock,
    micro_batch: int,
    count: int = 1,
    before: Callable[[MaskedTrainer], object] = lambda trainer: None,
    keep_gathered: bool = False,
) -> MaskedTrainer:
    """Train without evaluations and saves, on each of `count` ranks; the trainer after it.

    `before` is called with the trainer before it trains.
    """
    with tempfile.TemporaryDirectory() as state:
        arguments = training_arguments(recipe, 0, size.hardware, state, micro_batch, count)
        arguments.save_strategy = arguments.eval_strategy = "no"
        trainer = MaskedTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            optimizer_cls_and_kwargs=optimizer,
            recipe=recipe,
            row_tokens=row_tokens,
            probe=[],
            stops=Stops(),
            callbacks=[clock],
            keep_gathered=keep_gathered,
        )
        before(trainer)
        trainer.train()
    return trainer


def train(
    size: Size, model, samples: list[Example], batch: int, row_tokens: int, skip: int
) -> dict:
    """Optimizer steps of `batch` samples by this repository's trainer. Compiles before it."""
    steps = len(samples) // batch
    recipe, clock = timed_recipe(steps, batch), Clock(skip)
    kind, settings = custom_optimizer(recipe)
    compiling = seconds(lambda: compile_widths(model, samples, batch, row_tokens))
    compiling += seconds(lambda: compile_optimizer(model, kind, settings))
    free()
    run_trainer(size, model, samples, recipe, (kind, settings), row_tokens, clock, batch)
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
        "reserved_gib": peak_gib(torch.cuda.max_memory_reserved),
        "timed_steps": clock.steps,
        "compile_s": round(compiling, 1),
    }


def training_16(size: Size) -> dict:
    """A step of 16 Alpaca-length samples: mostly one forward."""
    samples = make_samples(size, 16 * (2 + 3 * size.steps))
    return train(size, make_model(size), samples, 16, size.row_tokens[0], 2)


def training_16k(size: Size) -> dict:
    """A step of about 16 thousand tokens: in the study's rows, and in shorter ones."""
    batch, model, found = size.throughput_examples, make_model(size), []
    samples = make_samples(size, batch * (2 + 2 * size.steps))
    for row_tokens in size.row_tokens:
        found.append({"row_tokens": row_tokens} | train(size, model, samples, batch, row_tokens, 2))
        free()
    fitting = [f for f in found if f["reserved_gib"] <= MEMORY_GIB]
    return max(fitting, key=lambda f: f["tokens_per_s"]) | {"rows": found}


def training_check(size: Size) -> dict:
    """Loss and gradients of one batch: by the fast path, by dense masks and all logits, exactly."""
    samples, losses, gradients = make_samples(size, 12), {}, {}
    targets = sum(len(s.continuations[0]) for s in samples)
    for way in ("fast", "plain", "float32"):
        model = make_model(size, None if way == "fast" else "sdpa").train()
        if way == "float32":
            model = model.float()
        losses[way] = 0.0
        for rows in forwards(samples, 2048, fixed=uses_fixed_rows(model)):
            rows = rows.to(size.device)
            if way == "fast":
                loss, _ = summed_loss(model, rows, RECIPE.train_mask)
            else:
                logits = target_logits(model, rows, RECIPE.train_mask).float()
                loss = cross_entropy(logits, rows.target_id, reduction="sum")
            (loss / targets).backward()
            losses[way] += loss.item() / targets
        gradients[way] = [p.grad for p in model.parameters()]
        del model
    exact = gradients.pop("float32")
    norm = sum(float(g.norm()) ** 2 for g in exact) ** 0.5

    def error(found: list[torch.Tensor]) -> float:
        pairs = zip(found, exact, strict=True)
        difference = sum(float((a.float() - b).norm()) ** 2 for a, b in pairs) ** 0.5
        return float(f"{difference / norm:.3g}")

    return {"loss": losses, "gradient_error": {way: error(g) for way, g in gradients.items()}}


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
    model, found = make_model(size), {"work": [], "length": []}
    batch, skip, steps = (2, 1, 2) if size.toy else (16, 3, 8)
    for times in (1, 2, 4):
        samples = make_samples(size, batch * times * steps)
        measured = train(size, model, samples, batch * times, size.row_tokens[0], skip)
        found["work"].append({"times": times} | measured)
        free()
    for length in size.prompt_lengths:
        batch = max(1, size.throughput_examples * 160 // length)
        row_tokens = max(size.row_tokens[0], length)
        samples = make_samples(size, batch * (skip + 3), length)
        measured = train(size, model, samples, batch, row_tokens, skip)
        found["length"].append({"sample_tokens": length} | measured)
        free()
    return found
