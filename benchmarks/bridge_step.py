"""A translator's training step with what the frozen models said read from the cache, and without.

    python benchmarks/bridge_step.py [--steps 30] [--threads 1]

The micro bridge as config/bridge.yaml has it: `all_fixes` at the K of its claims, compression
questions. Without a cache every step would let the source read its questions, and the target read
them as text for the teacher's log-probabilities. Both kinds of step alternate on the same questions
and medians are reported. Prints one JSON object (`make bench` keeps it in
benchmarks/results/bridge_step.json); exits 1 when a step without the cache has another loss.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ablation.arguments import training_arguments
from ablation.bridge import cache
from ablation.bridge.pair import load_pair
from ablation.bridge.train import BridgeTrainer, DevStops, Split, new_translator
from ablation.bridge.world.questions import Numbers
from ablation.config import load_study
from ablation.provenance import processor

ROOT = Path(__file__).resolve().parents[1]
MODELS = [ROOT / "resources/micro_bridge" / role / "model" for role in ("source", "target")]


def read(pair, records, block) -> Split:
    """What the frozen models say of `records`, as rule bridge_states computes it once."""
    asked = [record["question"] for record in records]
    states = cache.source_states(pair.source, pair.source_words, asked, block.layer, 64)
    teacher = cache.teacher_logprobs(pair.target, pair.target_words, records, block.teacher_top, 64)
    parts = zip(("states", "teacher", "teacher_ids"), (states, *teacher), strict=True)
    return Split.of(records, {name: part.rows() for name, part in parts})


def step(trainer: BridgeTrainer, split: Split, chosen: list[int]) -> float:
    """Forward, backward and update, as the Trainer does them; the loss in nats."""
    part = trainer._prepare_inputs(trainer.collate(chosen, split))["parts"][0]
    loss = trainer.compute_loss(trainer.model, part)
    loss.backward()
    trainer._clip_grad_norm(trainer.model)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return loss.item()


def main(arguments: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    ask.add_argument("--steps", type=int, default=30, help="of each kind")
    ask.add_argument("--threads", type=int, default=1)
    asked = ask.parse_args(arguments)
    block = load_study({"extends": "bridge.yaml"}, ROOT / "config").bridge
    recipe, k = block.recipe(block.claims.all_fixes), block.claims.soft_tokens
    hardware = {"gpu": 0, "threads": asked.threads, "dtype": "float32"}
    hardware |= {"attention": "sdpa", "compile": False}
    words = {"regime": "compression", "max_tokens": block.max_tokens, "chat": block.chat}
    pair = load_pair(MODELS, hardware, words)
    size = recipe["batch_examples"]
    world = Numbers(block.world.model_dump())
    records = world.questions("compression", "train", size * asked.steps)
    started = time.perf_counter()
    whole = read(pair, records, block)
    once = time.perf_counter() - started
    found: dict[str, list] = {"cached": [], "uncached": []}
    losses: dict[str, list] = {"cached": [], "uncached": []}
    with tempfile.TemporaryDirectory() as state:
        trainers = {}
        for kind in found:
            translator = new_translator(recipe, k, whole.states[0].shape[-1], pair.target, 1)
            trainers[kind] = BridgeTrainer(
                model=translator,
                args=training_arguments(recipe, 1, hardware, state, size),
                train_dataset=list(range(len(records))),
                eval_dataset=[0],
                target=pair.target,
                words=pair.target_words,
                split=whole,
                dev=whole,
                recipe=recipe,
                stops=DevStops(recipe["stops"] | {"leak": None}),
            )
            trainers[kind].create_optimizer()
        for number in range(asked.steps):
            chosen = list(range(number * size, (number + 1) * size))
            for kind, trainer in trainers.items():
                started = time.perf_counter()
                split, rows = whole, chosen
                if kind == "uncached":
                    split, rows = (
                        read(pair, records[chosen[0] : chosen[-1] + 1], block),
                        range(size),
                    )
                losses[kind].append(step(trainer, split, list(rows)))
                found[kind].append(time.perf_counter() - started)
    seconds = {kind: statistics.median(times) for kind, times in found.items()}
    same = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    told = {
        "benchmark": "a training step of the micro bridge, all_fixes",
        "soft_tokens": k,
        "questions_a_step": size,
        "steps": asked.steps,
        "threads": asked.threads,
        "processor": processor(),
        "seconds_cached": round(seconds["cached"], 5),
        "seconds_uncached": round(seconds["uncached"], 5),
        "uncached_over_cached": round(seconds["uncached"] / seconds["cached"], 2),
        "seconds_a_question_read_once": round(once / len(records), 6),
        "largest_difference_of_losses": same,
    }
    print(json.dumps(told, indent=2))
    return int(same > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
