"""Pretrains the two models of the micro bridge: a source and a target that share no shapes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from ablation.bridge.data.answers import exact_match, extract_answer
from ablation.bridge.data.prompts import Question
from ablation.bridge.data.questions import TEXTS, NumberWorld
from ablation.bridge.evaluation.generate import generate
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.prompt_encoder import PromptEncoder
from ablation.config.bridge_blocks import Pretrain, QuestionWorld
from ablation.console.progress import Progress
from ablation.micro_world.muon import Optimizers
from ablation.model.bpe_tokenizer import train_tokenizer
from ablation.model.checkpoints import save
from ablation.model.forward import target_logits
from ablation.model.packing import Example, Rows, pack
from ablation.model.small_decoder import random_decoder
from ablation.vocabulary.masks import CAUSAL

EXAM_QUESTIONS = 100  # for each skill
MAX_TOKENS = 256  # that a model can read


class NotLearned(RuntimeError):
    """A model failed its examination from every seed."""


def pretrain(
    world: QuestionWorld,
    role: str,
    recipe: Pretrain,
    out_folder: str | Path,
    device: str = "cpu",
) -> dict[str, Any]:
    """Pretrain the `role` (source or target) of `world` and write it to `out_folder`.

    Not every seed learns a skill that is learned late. So the model takes an examination, on
    questions of no split, and a model that fails is followed by one from the next seed. Writes the
    model (safetensors) and its tokenizer; returns {seed, steps, final_loss (nats a token, mean of
    the last 50 steps), accuracy, parameters, tokens}. Equal inputs give equal bytes on one kind of
    processor. Raises NotLearned, before anything is written, if no seed passes.
    """
    torch.set_num_threads(recipe.threads)
    numbers = NumberWorld(world)
    for seed in range(recipe.seed, recipe.seed + recipe.attempts):
        torch.manual_seed(seed)
        sample = TEXTS[role](numbers, Random(f"tokenizer {role} {seed}"))
        tokenizer = train_tokenizer(
            ["".join(next(sample)) for _ in range(recipe.tokenizer_documents)],
            recipe.vocabulary,
        )
        shape, std = recipe.model, recipe.model.embedding_std
        model = random_decoder(LlamaForCausalLM, len(tokenizer), shape, std, MAX_TOKENS)
        torch.nn.Module.to(model, device)
        batches = _batches(TEXTS[role](numbers, Random(f"{role} {seed}")), tokenizer, recipe)
        losses = _train(model, batches, recipe, f"the {role}, seed {seed}")
        accuracy = examine(model, tokenizer, numbers, role)
        if min(accuracy.values()) >= recipe.stop_accuracy:
            break
        print(f"the {role} from seed {seed} did not learn: {accuracy}", file=sys.stderr)
    else:
        raise NotLearned(
            f"the {role} failed its examination from {recipe.attempts} seeds, the last one {seed}: "
            f"{_accuracy_text(accuracy)}, but stop_accuracy requires {recipe.stop_accuracy}.\n"
            f"Nothing was written, because no translator works with a model that lacks a skill.\n"
            f"Give bridge.pretrain.{role} more steps or attempts, another seed or a smaller "
            f"learning rate, or use the shipped model (bridge.{role}: shipped)."
        )
    save(model, tokenizer, out_folder)
    last = losses[-50:]
    return {
        "seed": seed,
        "steps": recipe.steps,
        "final_loss": round(sum(last) / len(last), 4),
        "accuracy": accuracy,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": len(tokenizer),
    }


def _accuracy_text(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{skill} {share:.2f}" for skill, share in accuracy.items())


def _train(
    model: PreTrainedModel, batches: Iterator[Rows], recipe: Pretrain, label: str
) -> list[float]:
    """Train `model` in place; return the loss of every step in nats a token."""
    optimizers = Optimizers(model, recipe.lr_muon, recipe.lr_adamw)
    losses: list[float] = []
    progress = Progress(f"pretraining {label}", recipe.steps)
    for step in range(recipe.steps):
        rows = next(batches).to(model.device)
        loss = cross_entropy(target_logits(model, rows, CAUSAL), rows.target_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizers.step(_rate(step, recipe))
        losses.append(loss.item())
        progress.update(step + 1, f"loss {sum(losses[-20:]) / len(losses[-20:]):.3f}")
    return losses


def examine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, numbers: NumberWorld, role: str
) -> dict[str, float]:
    """{skill: accuracy} on questions that are drawn only for this examination.

    Both models answer codes; the source also answers codes of stones, and the target stated sums.
    """
    rng = Random(f"examination {role}")
    frozen = FrozenModel(model.eval(), PromptEncoder(tokenizer, MAX_TOKENS))
    own = {
        "source": lambda: numbers.stone_code_question(rng, 0.0, numbers.config.asked),
        "target": lambda: numbers.stated_sum_question(rng),
    }[role]
    found = {}
    for skill, draw in (("code", lambda: numbers.code_question(rng)), ("own", own)):
        drawn = [draw() for _ in range(EXAM_QUESTIONS)]
        rows = [frozen.encoder.text_row(Question(question)) for question, _ in drawn]
        texts = generate(frozen, rows, max_new_tokens=8, batch_size=EXAM_QUESTIONS).texts
        right = [
            exact_match(extract_answer(text), answer)
            for text, (_, answer) in zip(texts, drawn, strict=True)
        ]
        found[skill] = sum(right) / EXAM_QUESTIONS
    model.train()
    return found


def _batches(
    texts: Iterator[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, recipe: Pretrain
) -> Iterator[Rows]:
    while True:
        pairs = [next(texts) for _ in range(recipe.batch_documents)]
        contexts = tokenizer([context for context, _ in pairs])["input_ids"]
        learned = tokenizer([text for _, text in pairs], add_special_tokens=False)["input_ids"]
        examples = [
            Example(context, [[*text, tokenizer.eos_token_id]])
            for context, text in zip(contexts, learned, strict=True)
        ]
        yield pack(examples, recipe.row_tokens)


def _rate(step: int, recipe: Pretrain) -> float:
    left = (recipe.steps - step) / recipe.cooldown_steps
    return min(1.0, (step + 1) / recipe.warmup_steps, left)
