"""The two models of the micro bridge from nothing: a source and a target that share no shapes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ablation.bridge import prompts
from ablation.bridge.batches import Words
from ablation.bridge.generate import generate
from ablation.bridge.world.questions import TEXTS, Numbers
from ablation.models import target_logits
from ablation.packing import Example, Rows, pack
from ablation.progress import Progress
from ablation.world.decoder import random_decoder
from ablation.world.optimizers import Optimizers
from ablation.world.tokenizer import train_tokenizer

EXAMINED = 100  # questions a skill
LONGEST = 256  # tokens that a model reads


class NotLearned(RuntimeError):
    """A model of our own failed its examination from every seed that it was given."""


def pretrain(
    world: Mapping, role: str, recipe: Mapping, out_folder: str | Path, device: str = "cpu"
) -> dict:
    """Make the `role` (source or target) of `world` by `recipe` in `out_folder`.

    What is learned late is not learned from every seed: a model that fails its own examination,
    on questions of no split, is followed by one from the next seed. Writes model (safetensors) and
    tokenizer; returns {seed, steps, final_loss (nats a token, mean of the last 50 steps),
    accuracy, parameters, tokens}. Equal for equal input on one kind of processor. Raises
    NotLearned, before anything is written, when no seed passes.
    """
    torch.set_num_threads(recipe["threads"])
    numbers = Numbers(world)
    for seed in range(recipe["seed"], recipe["seed"] + recipe["attempts"]):
        torch.manual_seed(seed)
        sample = TEXTS[role](numbers, Random(f"tokenizer {role} {seed}"))
        tokenizer = train_tokenizer(
            ["".join(next(sample)) for _ in range(recipe["tokenizer_documents"])],
            recipe["vocabulary"],
        )
        model = random_decoder(LlamaForCausalLM, len(tokenizer), recipe["model"], LONGEST)
        model.to(device)
        texts = TEXTS[role](numbers, Random(f"{role} {seed}"))
        losses = _train(
            model, _batches(texts, tokenizer, recipe), recipe, f"the {role}, seed {seed}"
        )
        accuracy = examined(model, tokenizer, numbers, role)
        if min(accuracy.values()) >= recipe["stop_accuracy"]:
            break
        print(f"the {role} from seed {seed} did not learn: {accuracy}", file=sys.stderr)
    else:
        raise NotLearned(
            f"the {role} failed its examination from {recipe['attempts']} seeds, lastly {seed}: "
            f"{_told(accuracy)}, where stop_accuracy asks for {recipe['stop_accuracy']} of each. "
            f"No translator could read from it, or make it say, what it never learned. Give "
            f"bridge.pretrain.{role} more steps or attempts, another seed or a smaller learning "
            f"rate, or take the shipped model (bridge.{role}: shipped)."
        )
    model.save_pretrained(out_folder)
    tokenizer.save_pretrained(out_folder)
    last = losses[-50:]
    return {
        "seed": seed,
        "steps": recipe["steps"],
        "final_loss": round(sum(last) / len(last), 4),
        "accuracy": accuracy,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": len(tokenizer),
    }


def _told(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{skill} {share:.2f}" for skill, share in accuracy.items())


def _train(
    model: LlamaForCausalLM, batches: Iterator[Rows], recipe: Mapping, label: str
) -> list[float]:
    """Train `model` in place; the loss of every step, in nats a token."""
    optimizers = Optimizers(model, recipe["lr_muon"], recipe["lr_adamw"])
    losses: list[float] = []
    bar = Progress(f"pretraining {label}", recipe["steps"])
    for step in range(recipe["steps"]):
        rows = next(batches).to(model.device)
        loss = cross_entropy(target_logits(model, rows, "causal"), rows.target_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["max_grad_norm"])
        optimizers.step(_rate(step, recipe))
        losses.append(loss.item())
        bar.update(step + 1, f"loss {sum(losses[-20:]) / len(losses[-20:]):.3f}")
    return losses


def examined(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, numbers: Numbers, role: str
) -> dict[str, float]:
    """{skill: accuracy} on questions drawn for this alone: codes, and what only this model can."""
    rng, words = Random(f"examination {role}"), Words(tokenizer, LONGEST)
    own = {
        "source": lambda: numbers.known(rng, 0.0, numbers.config["asked"]),
        "target": lambda: numbers.told_sum(rng),
    }[role]
    found = {}
    for skill, draw in (("code", lambda: numbers.code(rng)), ("own", own)):
        asked = [draw() for _ in range(EXAMINED)]
        rows = [words.text(question) for question, _ in asked]
        said = generate(model.eval(), words, rows, max_new_tokens=8, batch_size=EXAMINED).texts
        right = [
            prompts.exact_match(prompts.extracted(text), answer)
            for text, (_, answer) in zip(said, asked, strict=True)
        ]
        found[skill] = sum(right) / EXAMINED
    model.train()
    return found


def _batches(
    texts: Iterator[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, recipe: Mapping
) -> Iterator[Rows]:
    while True:
        pairs = [next(texts) for _ in range(recipe["batch_documents"])]
        read = tokenizer([one for one, _ in pairs])["input_ids"]
        learned = tokenizer([one for _, one in pairs], add_special_tokens=False)["input_ids"]
        examples = [
            Example(one, [[*other, tokenizer.eos_token_id]])
            for one, other in zip(read, learned, strict=True)
        ]
        yield pack(examples, recipe["row_tokens"])


def _rate(step: int, recipe: Mapping) -> float:
    left = (recipe["steps"] - step) / recipe["cooldown_steps"]
    return min(1.0, (step + 1) / recipe["warmup_steps"], left)
