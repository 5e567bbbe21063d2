"""Measures a translator's training step with cached activations of the frozen models, and without.

    python benchmarks/bridge_step.py [--steps 30] [--threads 1]

The micro bridge is that of config/bridge.yaml: recipe `all_fixes` at the K of its claims, on
compression questions. Without a cache, every step runs the source on its questions, and the target
on the same questions as text for the teacher's log-probabilities. Both kinds of steps alternate on
the same questions, and medians are reported. Prints one JSON object (`make bench` keeps it in
benchmarks/results/bridge_step.json); exits with 1 if a step without a cache has another loss.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ablation.bridge.data.questions import NumberWorld
from ablation.bridge.evaluation.write_activations import ReadOptions, read_activations
from ablation.bridge.model.pair import Pair, load_pair
from ablation.bridge.model.prompt_encoder import PromptFormat
from ablation.bridge.model.splits import Split
from ablation.bridge.model.translator import new_translator
from ablation.bridge.training.early_stopping import DevStops
from ablation.bridge.training.trainer import BridgeTrainer
from ablation.config.load import load_study
from ablation.config.study import ComputeSettings
from ablation.provenance.run_records import processor_name
from ablation.training.trainer_arguments import training_arguments
from ablation.vocabulary.bridge import COMPRESSION

ROOT = Path(__file__).resolve().parents[1]
MODELS = [ROOT / "resources/micro_bridge" / role / "model" for role in ("source", "target")]


def read(pair: Pair, records: list[dict], options: ReadOptions) -> Split:
    """The split of `records` with activations, which rule bridge_states computes once."""
    arrays = read_activations(pair, records, options, teacher=True)
    return Split.of(records, {name: array.rows() for name, array in arrays.items()})


def step(trainer: BridgeTrainer, split: Split, chosen: list[int]) -> float:
    """One forward, backward and update, as the Trainer does them; returns the loss in nats."""
    part = trainer._prepare_inputs(trainer.collate_from(split, chosen))["parts"][0]
    loss = trainer.compute_loss(trainer.model, part)
    loss.backward()
    trainer._clip_grad_norm(trainer.model)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return loss.item()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30, help="number of steps of each kind")
    parser.add_argument("--threads", type=int, default=1, help="number of torch threads")
    options = parser.parse_args(arguments)
    block = load_study({"extends": "bridge.yaml"}, ROOT / "config").bridge
    recipe, k = block.recipes[block.claims.all_fixes], block.claims.soft_tokens
    hardware = ComputeSettings(
        gpu=0, threads=options.threads, dtype="float32", attention="sdpa", compile=False
    )
    pair = load_pair(MODELS, hardware, PromptFormat(COMPRESSION, block.max_tokens, block.chat))
    size = recipe.batch_examples
    records = NumberWorld(block.world).make_questions(COMPRESSION, "train", size * options.steps)
    reading = ReadOptions(block.layer, block.teacher_top)
    started = time.perf_counter()
    cached = read(pair, records, reading)
    reading_seconds = time.perf_counter() - started
    seconds: dict[str, list[float]] = {"cached": [], "uncached": []}
    losses: dict[str, list[float]] = {"cached": [], "uncached": []}
    with tempfile.TemporaryDirectory() as home:
        trainers = {}
        for kind in seconds:
            width = cached.activations[0].shape[-1]
            translator = new_translator(recipe, k, width, pair.target.model, 1)
            trainers[kind] = BridgeTrainer(
                model=translator,
                args=training_arguments(recipe, 1, hardware, home, size),
                train_dataset=list(range(len(records))),
                eval_dataset=[0],
                recipe=recipe,
                target=pair.target,
                split=cached,
                dev=cached,
                stops=DevStops.of(recipe),
            )
            trainers[kind].create_optimizer()
        for start in range(0, len(records), size):
            for kind, trainer in trainers.items():
                started = time.perf_counter()
                if kind == "cached":
                    split, chosen = cached, list(range(start, start + size))
                else:
                    split = read(pair, records[start : start + size], reading)
                    chosen = list(range(size))
                losses[kind].append(step(trainer, split, chosen))
                seconds[kind].append(time.perf_counter() - started)
    median = {kind: statistics.median(times) for kind, times in seconds.items()}
    difference = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    report = {
        "benchmark": "a training step of the micro bridge, all_fixes",
        "soft_tokens": k,
        "questions_a_step": size,
        "steps": options.steps,
        "threads": options.threads,
        "processor": processor_name(),
        "seconds_cached": round(median["cached"], 5),
        "seconds_uncached": round(median["uncached"], 5),
        "uncached_over_cached": round(median["uncached"] / median["cached"], 2),
        "seconds_a_question_read_once": round(reading_seconds / len(records), 6),
        "largest_difference_of_losses": difference,
    }
    print(json.dumps(report, indent=2))
    return int(difference > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
