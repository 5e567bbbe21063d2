"""The micro base from nothing: a Ministral-3 decoder that reads the world's documents.

Binding names in context is learned late and all at once, at a step that depends on the seed. So
training does not run for a fixed number of steps: it goes on until every task has been learned on
development items, then lowers the learning rate to zero over a last stretch and ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import Ministral3ForCausalLM, PreTrainedTokenizerFast

from ablation.models import target_logits
from ablation.packing import Example, Rows, pack
from ablation.progress import Progress
from ablation.world.corpus import documents, primer
from ablation.world.decoder import random_decoder
from ablation.world.optimizers import Optimizers
from ablation.world.scenes import TASKS, World, world_of
from ablation.world.tasks import items, requests
from ablation.world.tokenizer import train_tokenizer

CHECK_ROWS = 64  # rows of development items a forward
LONGEST = 512  # tokens that the base reads


def pretrain(config: Mapping, out_folder: str | Path, progress: bool = True) -> dict:
    """Make the base model of the world `config` (the study's `world:` block) in `out_folder`.

    Writes model (safetensors) and tokenizer. Returns what happened: steps, tokens, final_loss
    (nats a token, mean of the last 100 steps), learned (whether every task reached
    `stop_accuracy`), dev_accuracy by task, parameters, attempt (from 0) and its seed. Equal for
    equal config and thread count on one kind of CPU.
    """
    recipe = config["pretrain"]
    torch.set_num_threads(recipe["threads"])
    world = world_of(config)
    dev = {
        task: items(world, task, recipe["check"]["items"], recipe["seed"], "dev") for task in TASKS
    }
    for attempt in range(recipe["attempts"]):
        # A run in which some task was never learned is followed by one from other weights and
        # texts; development items alone decide.
        seed = recipe["seed"] + attempt
        torch.manual_seed(seed)
        sample = documents(world, Random(f"tokenizer {seed}"), recipe["documents"])
        texts = [next(sample) for _ in range(recipe["tokenizer"]["documents"])]
        tokenizer = train_tokenizer(texts, recipe["tokenizer"]["vocabulary"])
        model = build_model(len(tokenizer), recipe["model"])
        summary = train(model, tokenizer, world, {**recipe, "seed": seed}, dev, progress)
        summary |= {"attempt": attempt, "seed": seed}
        if summary["learned"]:
            break
        missed = [t for t, a in summary["dev_accuracy"].items() if a < recipe["stop_accuracy"]]
        print(
            f"pretraining from seed {seed} did not learn {', '.join(missed)} in "
            f"{summary['steps']} steps: give world.pretrain more attempts, or another seed",
            file=sys.stderr,
        )
    model.save_pretrained(out_folder)
    tokenizer.save_pretrained(out_folder)
    return summary


def build_model(vocabulary: int, size: Mapping) -> Ministral3ForCausalLM:
    """A Ministral-3 decoder with random float32 weights."""
    yarn = {
        "rope_type": "yarn",  # as Ministral-3 has it; a factor of 1 stretches nothing
        "factor": 1.0,
        "rope_theta": 10_000.0,
        "llama_4_scaling_beta": 0.0,
        "original_max_position_embeddings": LONGEST,
    }
    return random_decoder(Ministral3ForCausalLM, vocabulary, size, LONGEST, rope_parameters=yarn)


def train(
    model: Ministral3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    recipe: Mapping,
    dev: Mapping[str, Sequence[dict]],
    progress: bool,
) -> dict:
    """Train `model` in place by `recipe`; returns the summary of `pretrain`."""
    optimizers = Optimizers(model, recipe["lr_muon"], recipe["lr_adamw"])
    batches = _batches(tokenizer, world, recipe)
    max_steps, cooldown = recipe["max_steps"], recipe["cooldown_steps"]
    last = max_steps  # the step to end at; sooner once everything is learned
    checked: dict[str, float] = {}
    losses: list[float] = []
    learned, step, tokens = False, 0, 0
    bar = Progress("pretraining", max_steps)
    while step < last:
        model.train()
        rows = next(batches)
        loss = cross_entropy(target_logits(model, rows, "causal"), rows.target_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["max_grad_norm"])
        optimizers.step(_rate(step, last, recipe))
        step += 1
        tokens += int((rows.doc >= 0).sum())
        losses.append(loss.item())
        if progress and not step % 20:
            bar.update(step, f"loss {sum(losses[-20:]) / 20:.3f} {_short(checked)}")
        due = step >= recipe["check"]["from_step"] and not step % recipe["check"]["every"]
        if due and not learned and step + cooldown < max_steps:
            checked = accuracies(model, tokenizer, dev)
            if min(checked.values()) >= recipe["stop_accuracy"]:
                learned = True
                last = bar.total = step + cooldown
    checked = accuracies(model, tokenizer, dev)
    return {
        "steps": step,
        "tokens": tokens,
        "final_loss": round(sum(losses[-100:]) / len(losses[-100:]), 4),
        "learned": min(checked.values()) >= recipe["stop_accuracy"],
        "dev_accuracy": checked,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


@torch.no_grad()
def accuracies(
    model: Ministral3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    by_task: Mapping[str, Sequence[dict]],
) -> dict[str, float]:
    """{task: accuracy} under `causal`, by summed log-probability."""
    model.eval()
    examples, choices = [], []
    for chosen in by_task.values():
        for item in chosen:
            asked = requests(item)
            choices.append(len(asked))
            for context, continuation in asked:
                prompt = tokenizer(context)["input_ids"]
                answer = tokenizer(continuation, add_special_tokens=False)["input_ids"]
                examples.append(Example(prompt, [answer]))
    scores: list[float] = []
    for start in range(0, len(examples), 2 * CHECK_ROWS):
        rows = pack(examples[start : start + 2 * CHECK_ROWS], capacity=128, keep_last=False)
        logprobs = -cross_entropy(
            target_logits(model, rows, "causal"), rows.target_id, reduction="none"
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


def _batches(tokenizer: PreTrainedTokenizerFast, world: World, recipe: Mapping) -> Iterator[Rows]:
    """Endless packed batches: the primer alone, then fading out into the world's documents."""
    order = Random(f"order {recipe['seed']}")
    lists = primer(Random(f"primer {recipe['seed']}"))
    texts = documents(world, Random(f"corpus {recipe['seed']}"), recipe["documents"])
    alone, faded = recipe["primer"]["alone_until"], recipe["primer"]["faded_at"]
    kept = recipe["primer"]["kept_share"]
    step = 0
    while True:
        share = 1.0 if step < alone else max(kept, (faded - step) / (faded - alone))
        batch = [
            next(lists) if order.random() < share else next(texts)
            for _ in range(recipe["batch_documents"])
        ]
        ids = tokenizer(batch)["input_ids"]
        eos = tokenizer.eos_token_id
        # A document is one continuation of an empty prompt: every token after BOS is predicted.
        yield pack([Example([], [[*one, eos]]) for one in ids], capacity=recipe["row_tokens"])
        step += 1


def _rate(step: int, last: int, recipe: Mapping) -> float:
    """What both learning rates are multiplied by at `step` (from 0), if training ends at `last`."""
    rate = 1.0 if step < recipe["primer"]["alone_until"] else recipe["rate_after_primer"]
    warm = min(1.0, (step + 1) / recipe["warmup_steps"])
    return rate * warm * min(1.0, (last - step) / recipe["cooldown_steps"])


def _short(accuracy: Mapping[str, float]) -> str:
    return " ".join(f"{task.removeprefix('micro_')} {a:.2f}" for task, a in accuracy.items())
