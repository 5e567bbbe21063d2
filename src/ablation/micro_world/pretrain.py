"""Pretrains the base of the micro study: a small Ministral-3 decoder on the world's documents.

A model learns late and suddenly to bind names in context, at a step that depends on the seed. So
training does not run for a fixed number of steps. It goes on until every task is learned on
development items, then lowers the learning rate to zero over its last steps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Ministral3ForCausalLM, PreTrainedTokenizerFast

from ablation.config.world import Decoder, Pretrain
from ablation.console.progress import Progress
from ablation.micro_world.corpus import documents, primer
from ablation.micro_world.muon import Optimizers
from ablation.micro_world.scenes import World
from ablation.micro_world.tasks import items, requests
from ablation.model.bpe_tokenizer import train_tokenizer
from ablation.model.checkpoints import save
from ablation.model.forward import target_logits
from ablation.model.packing import Example, Rows, pack
from ablation.model.small_decoder import random_decoder
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.micro_tasks import TASKS

CHECK_ROWS = 64  # development items of one forward have this many rows, with two examples each
LONGEST = 512  # most tokens that the base reads
Item = Mapping[str, Any]


def pretrain(
    world: World, recipe: Pretrain, out_folder: str | Path, progress: bool = True
) -> dict[str, Any]:
    """Pretrain the base model of `world` and write model (safetensors) and tokenizer.

    recipe: the block `pretrain` of the study's `world:` block.

    An attempt in which some task was not learned is followed by one with the next seed, so with
    other weights and texts. Returns the summary: steps, tokens, final_loss (nats a token, mean of
    the last 100 steps), learned (whether every task reached `stop_accuracy`), dev_accuracy by task,
    parameters, attempt (from 0) and its seed. Equal arguments give equal files on one kind of CPU.
    """
    torch.set_num_threads(recipe.threads)
    dev = {task: items(world, task, recipe.check.items, recipe.seed, "dev") for task in TASKS}
    for attempt in range(recipe.attempts):
        seed = recipe.seed + attempt
        torch.manual_seed(seed)
        sample = documents(world, Random(f"tokenizer {seed}"), recipe.documents)
        texts = [next(sample) for _ in range(recipe.tokenizer.documents)]
        tokenizer = train_tokenizer(texts, recipe.tokenizer.vocabulary)
        model = build_model(len(tokenizer), recipe.model)
        summary = train(model, tokenizer, world, recipe, seed, dev, progress)
        summary |= {"attempt": attempt, "seed": seed}
        if summary["learned"]:
            break
        missed = [t for t, a in summary["dev_accuracy"].items() if a < recipe.stop_accuracy]
        print(
            f"pretraining from seed {seed} did not learn {', '.join(missed)} in "
            f"{summary['steps']} steps: give world.pretrain more attempts, or another seed",
            file=sys.stderr,
        )
    save(model, tokenizer, out_folder)
    return summary


def build_model(vocabulary: int, shape: Decoder) -> Ministral3ForCausalLM:
    """A Ministral-3 decoder with random float32 weights."""
    yarn = {
        "rope_type": "yarn",  # that of Ministral-3; a factor of 1 leaves positions as they are
        "factor": 1.0,
        "rope_theta": 10_000.0,
        "llama_4_scaling_beta": 0.0,
        "original_max_position_embeddings": LONGEST,
    }
    return random_decoder(
        Ministral3ForCausalLM,
        vocabulary,
        shape,
        shape.embedding_std,
        LONGEST,
        rope_parameters=yarn,
    )


def train(
    model: Ministral3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    recipe: Pretrain,
    seed: int,
    dev: Mapping[str, Sequence[Item]],
    progress: bool,
) -> dict[str, Any]:
    """Train `model` in place by `recipe`; return the summary of `pretrain`.

    `seed` decides the texts, and `dev` are the development items of each task.
    """
    optimizers = Optimizers(model, recipe.lr_muon, recipe.lr_adamw)
    batches = _batches(tokenizer, world, recipe, seed)
    max_steps, cooldown = recipe.max_steps, recipe.cooldown_steps
    last = max_steps  # the last step; an earlier one as soon as every task is learned
    checked: dict[str, float] = {}
    losses: list[float] = []
    learned, step, tokens = False, 0, 0
    bar = Progress("pretraining", max_steps)
    while step < last:
        model.train()
        rows = next(batches)
        loss = cross_entropy(target_logits(model, rows, CAUSAL), rows.target_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizers.step(_rate(step, last, recipe))
        step += 1
        tokens += int((rows.doc >= 0).sum())
        losses.append(loss.item())
        if progress and not step % 20:
            bar.update(step, f"loss {sum(losses[-20:]) / 20:.3f} {_short(checked)}")
        due = step >= recipe.check.from_step and not step % recipe.check.every
        if due and not learned and step + cooldown < max_steps:
            checked = accuracies(model, tokenizer, dev)
            if min(checked.values()) >= recipe.stop_accuracy:
                learned = True
                last = bar.total = step + cooldown
    checked = accuracies(model, tokenizer, dev)
    return {
        "steps": step,
        "tokens": tokens,
        "final_loss": round(sum(losses[-100:]) / len(losses[-100:]), 4),
        "learned": min(checked.values()) >= recipe.stop_accuracy,
        "dev_accuracy": checked,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


@torch.no_grad()
def accuracies(
    model: Ministral3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    by_task: Mapping[str, Sequence[Item]],
) -> dict[str, float]:
    """{task: accuracy} under `causal`; the choice with the highest summed log-likelihood wins."""
    model.eval()
    examples, choices = [], []
    for chosen in by_task.values():
        for item in chosen:
            pairs = requests(item)
            choices.append(len(pairs))
            for context, continuation in pairs:
                prompt = tokenizer(context)["input_ids"]
                answer = tokenizer(continuation, add_special_tokens=False)["input_ids"]
                examples.append(Example(prompt, [answer]))
    scores: list[float] = []
    for start in range(0, len(examples), 2 * CHECK_ROWS):
        rows = pack(examples[start : start + 2 * CHECK_ROWS], capacity=128, keep_last=False)
        logprobs = -cross_entropy(
            target_logits(model, rows, CAUSAL), rows.target_id, reduction="none"
        )
        summed = torch.zeros(rows.continuations).index_add_(0, rows.target_owner, logprobs)
        scores += summed.tolist()
    result, first, number = {}, 0, 0
    for task, chosen in by_task.items():
        hits = 0
        for item in chosen:
            own = scores[first : first + choices[number]]
            hits += own.index(max(own)) == item["gold"]
            first, number = first + choices[number], number + 1
        result[task] = hits / len(chosen)
    return result


def _batches(
    tokenizer: PreTrainedTokenizerFast, world: World, recipe: Pretrain, seed: int
) -> Iterator[Rows]:
    """Endless packed batches: first of the primer alone, then more and more of documents."""
    order = Random(f"order {seed}")
    lists = primer(Random(f"primer {seed}"))
    texts = documents(world, Random(f"corpus {seed}"), recipe.documents)
    alone, faded = recipe.primer.alone_until, recipe.primer.faded_at
    kept = recipe.primer.kept_share
    step = 0
    while True:
        share = 1.0 if step < alone else max(kept, (faded - step) / (faded - alone))
        batch = [
            next(lists) if order.random() < share else next(texts)
            for _ in range(recipe.batch_documents)
        ]
        ids = tokenizer(batch)["input_ids"]
        eos = tokenizer.eos_token_id
        # A document is a continuation without a prompt: every token after BOS is predicted.
        yield pack([Example([], [[*one, eos]]) for one in ids], capacity=recipe.row_tokens)
        step += 1


def _rate(step: int, last: int, recipe: Pretrain) -> float:
    """The factor of both learning rates at `step` (from 0), if training ends at `last`."""
    rate = 1.0 if step < recipe.primer.alone_until else recipe.rate_after_primer
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return rate * warm * min(1.0, (last - step) / recipe.cooldown_steps)


def _short(accuracy: Mapping[str, float]) -> str:
    return " ".join(f"{task.removeprefix('micro_')} {a:.2f}" for task, a in accuracy.items())
