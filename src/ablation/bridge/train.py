"""One translator a cell, trained between two frozen models, with the first study's Trainer.

Resume, sealed states and stops are those of `ablation.finetune`; here stand what a batch holds,
what its loss is, and which weights are reported: those best on the dev split, copied to the disk
at that moment, and the last ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.arguments import training_arguments
from ablation.atomic import atomic_path
from ablation.bridge import losses, prompts
from ablation.bridge.batches import Batch, Row, Words, batch
from ablation.bridge.cache import Ragged, padded
from ablation.bridge.generate import generate
from ablation.bridge.inject import embed
from ablation.bridge.translator import KINDS, Soft, Translator, embedding_rms
from ablation.finetune import MaskedTrainer
from ablation.resume import past_of, train_on
from ablation.states import newest_state, resumes
from ablation.stops import MAX_STEPS, Stops
from ablation.watch import Watch


@dataclass(frozen=True)
class Split:
    """Questions of one split with what the frozen models said of them."""

    records: Sequence[Mapping]  # {question, answer}
    states: tuple[Tensor, ...]  # of the source, [tokens, width] each
    teacher: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None  # log-probabilities and ids

    @classmethod
    def of(cls, records: Sequence[Mapping], cached: Mapping[str, Ragged]) -> Split:
        teacher = None
        if "teacher" in cached:
            teacher = cached["teacher"].rows(), cached["teacher_ids"].rows()
        return cls(records, cached["states"].rows(), teacher)


class Trained(NamedTuple):
    """A trained cell: its best and its last weights, summary and curve."""

    best: dict[str, Tensor]
    last: dict[str, Tensor]
    summary: dict
    curve: list[dict]
    record: dict


class DevStops(Stops):
    """Stops on training and dev loss; a bridge's training has no leak probe."""

    def saw(self, entry: Mapping) -> str | None:
        reason = self.reason
        if "loss" in entry:
            reason = reason or self.logged(entry["step"], entry["loss"], entry.get("grad_norm"))
        if "eval_loss" in entry:
            reason = reason or self.evaluated(entry["step"], entry["eval_loss"])
        self.reason = reason
        return reason


def new_translator(
    recipe: Mapping, k: int, source_width: int, target: PreTrainedModel, seed: int
) -> Translator:
    """A fresh translator in float32; the seed decides its weights."""
    torch.manual_seed(seed)
    table, size = target.get_input_embeddings().weight, recipe["translator"]
    kind = KINDS[size["kind"]]
    return kind(k, source_width, table.shape[1], embedding_rms(table), size).to(target.device)


class BridgeTrainer(MaskedTrainer):
    """The Trainer over a translator; the frozen target stands beside it, not in it."""

    def __init__(
        self, *args, target: PreTrainedModel, words: Words, split: Split, dev: Split, **kw
    ):
        self.target, self.words, self.split, self.dev = target, words, split, dev
        super().__init__(*args, row_tokens=0, probe=(), **kw)
        self.model_accepts_loss_kwargs = False
        self.rms = embedding_rms(target.get_input_embeddings().weight)
        self.terms: dict[str, float] = {}  # raw values of the last step, for the curve

    def rows(self, split: Split, chosen: Sequence[int]) -> list[Row]:
        recipe, k = self.recipe, self.model.k
        records = [split.records[i] for i in chosen]
        answers = [self.words.answer(r["answer"], recipe["eos"]) for r in records]
        return [
            self.words.bridged(k, recipe["mode"], r["question"], answer)
            for r, answer in zip(records, answers, strict=True)
        ]

    def collate(self, chosen: list[int], split: Split | None = None) -> dict:
        """Everything of the rows `chosen` that a step needs, as tensors."""
        split = split or self.split
        answered = batch(self.rows(split, chosen), self.words.pad)
        states, mask = padded([split.states[i].float() for i in chosen])
        asked = batch(
            [self.words.text(split.records[i]["question"]) for i in chosen], self.words.pad
        )
        part = {"batch": vars(answered), "states": states, "mask": mask, "asked": vars(asked)}
        if split.teacher is not None:
            lengths = (answered.labels >= 0).sum(1).tolist()
            kept = list(zip(chosen, lengths, strict=True))
            part["teacher"] = torch.cat([split.teacher[0][i][:n] for i, n in kept])
            part["teacher_ids"] = torch.cat([split.teacher[1][i][:n] for i, n in kept])
        return {"parts": [part], "tokens": int(answered.mask.sum())}

    def loss_terms(self, part: Mapping) -> dict[str, Tensor]:
        """{enabled term: raw value}; a weight of zero switches a term off altogether."""
        recipe, weights = self.recipe, self.weights()
        rows, asked = Batch(**part["batch"]), Batch(**part["asked"])
        table = self.target.get_input_embeddings()
        with torch.no_grad():
            question = table(asked.ids)
            parts, present = losses.stretches(question, asked.span, self.model.k)
        wanted = parts if weights["flow"] else None
        soft: Soft = self.model(part["states"], part["mask"], teacher=wanted)
        logits = self.target(
            inputs_embeds=embed(rows, soft.tokens, table, recipe["mode"]),
            attention_mask=rows.mask.long(),
            position_ids=rows.positions,
            use_cache=False,
        ).logits
        logits, targets = losses.answer_logits(logits, rows.labels)
        terms = {"cross_entropy": losses.cross_entropy(logits, targets)}
        if weights["kl"]:
            terms["kl"] = losses.kl(logits, part["teacher"], part["teacher_ids"])
        if weights["info_nce"]:
            span = asked.span[..., None]
            mean = (question * span).sum(1) / span.sum(1)
            temperature = recipe["weights"]["temperature"]
            terms["info_nce"] = losses.info_nce(soft.tokens, mean, temperature)
        if weights["prompt_alignment"]:
            terms["prompt_alignment"] = losses.prompt_alignment(
                soft.tokens, parts, present, self.rms
            )
        if soft.flow is not None:
            terms["flow"] = soft.flow
        return terms

    def weights(self) -> dict[str, float]:
        """The recipe's weights; that of KL comes in over `kl_ramp` steps after the warm-up."""
        recipe, step = self.recipe, self.state.global_step
        found = {"cross_entropy": 1.0} | {t: recipe["weights"][t] for t in losses.TERMS[1:]}
        if found["kl"]:  # never quite off, so that the term is there from the first step
            ramp = losses.ramp(step + 1, recipe["warmup_steps"], recipe["weights"]["kl_ramp"])
            found["kl"] *= max(ramp, 1e-6)
        if recipe["translator"]["kind"] == "source_free":  # it knows no question to be like
            found |= dict.fromkeys(("info_nce", "prompt_alignment"), 0.0)
        if recipe["translator"]["kind"] != "diffusion":
            found["flow"] = 0.0
        return found

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        terms = self.loss_terms(inputs)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return losses.total(terms, self.weights())

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            weights = self.weights()
            logs |= {f"raw_{n}": v.item() for n, v in self.terms.items()}
            logs |= {f"weight_{n}": weights[n] for n in self.terms}
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Dev: cross entropy, accuracy, and how often answers are the same, empty or invalid."""
        was_training = self.model.training
        self.model.eval()
        try:
            chosen = range(min(self.recipe["eval_samples"], len(self.dev.records)))
            inputs = self._prepare_inputs(self.collate(list(chosen), self.dev))["parts"][0]
            soft = translate(self.model, [self.dev.states[i] for i in chosen])
            rows, table = Batch(**inputs["batch"]), self.target.get_input_embeddings()
            logits = self.target(
                inputs_embeds=embed(rows, soft, table, self.recipe["mode"]),
                attention_mask=rows.mask.long(),
                position_ids=rows.positions,
                use_cache=False,
            ).logits
            loss = losses.cross_entropy(*losses.answer_logits(logits, rows.labels)).item()
            records = [self.dev.records[i] for i in chosen]
            texts = answers(self.target, self.words, records, soft, self.recipe, self.model.k)
        finally:
            self.model.train(was_training)
        return {"eval_loss": loss, **quality(texts, records)}

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        step = self.state.global_step
        if best_step(self.state.log_history) == step:
            keep(self.model, Path(self.args.output_dir), step)
        return metrics


def answers(
    target: PreTrainedModel,
    words: Words,
    records: Sequence[Mapping],
    soft: Tensor,
    recipe: Mapping,
    k: int,
) -> list[str]:
    """What the target says after soft tokens; the records' gold answers are not looked at."""
    rows = [words.bridged(k, recipe["mode"], r["question"]) for r in records]
    return generate(
        target,
        words,
        rows,
        soft,
        mode=recipe["mode"],
        max_new_tokens=recipe["max_new_tokens"],
        batch_size=recipe["eval_batch"],
    ).texts


def quality(texts: Sequence[str], records: Sequence[Mapping]) -> dict[str, float]:
    """Accuracy, and what shows a collapse: different, empty and invalid answers."""
    found = [prompts.extracted(text) for text in texts]
    right = [prompts.exact_match(f, r["answer"]) for f, r in zip(found, records, strict=True)]
    return {
        "accuracy": sum(right) / len(right),
        "unique": len(set(found)),
        "empty": sum(not text.strip() for text in texts),
        "invalid": sum(f is None for f in found),
    }


@torch.no_grad()
def translate(
    translator: Translator, states: Sequence[Tensor], noise_seed: int = 0, batch_size: int = 64
) -> Tensor:
    """Soft tokens [rows, K, width] in evaluation mode, which is undone after.

    `noise_seed` fixes what a diffusion starts from, so that greedy decoding repeats itself.
    """
    device, was_training = translator.device, translator.training
    translator.eval()
    found, generator = [], torch.Generator().manual_seed(noise_seed)
    try:
        for start in range(0, len(states), batch_size):
            rows, mask = padded([s.float() for s in states[start : start + batch_size]])
            soft = translator(rows.to(device), mask.to(device), generator=generator)
            found.append(soft.tokens)
    finally:
        translator.train(was_training)
    return torch.cat(found)


def best_step(history: Sequence[Mapping]) -> int | None:
    """The step with the best dev accuracy, of equals that with the lowest dev loss."""
    looks = [entry for entry in history if "eval_loss" in entry]
    best = max(looks, key=lambda e: (e["accuracy"], -e["eval_loss"]), default=None)
    return None if best is None else best["step"]


def keep(model: nn.Module, home: Path, step: int) -> None:
    """A copy of the weights as they are now, on the disk: later steps cannot touch it."""
    with atomic_path(home / f"best-{step}.safetensors") as scratch:
        save_file({n: t.detach().cpu().clone() for n, t in model.state_dict().items()}, scratch)


def train_cell(
    target: PreTrainedModel,
    words: Words,
    splits: Mapping[str, Split],
    recipe: Mapping,
    k: int,
    seed: int,
    hardware: Mapping,
    label: str,
    state: str | Path,
) -> Trained:
    """Train one translator, resuming from `state` if it can. The seed decides weights and order."""
    started, state = time.perf_counter(), Path(state)
    state.mkdir(parents=True, exist_ok=True)
    source_width = splits["train"].states[0].shape[-1]
    translator = new_translator(recipe, k, source_width, target, seed)
    target.requires_grad_(False)
    stops, newest = DevStops(recipe["stops"] | {"leak": None}), newest_state(state)
    past = past_of(newest, stops)
    resumed = resumes(state, at=past.global_step if newest else None)
    trainer = BridgeTrainer(
        model=translator,
        args=training_arguments(recipe, seed, hardware, state, recipe["micro_batch_examples"]),
        train_dataset=list(range(len(splits["train"].records))),
        eval_dataset=[0],
        target=target,
        words=words,
        split=splits["train"],
        dev=splits["dev"],
        recipe=recipe,
        stops=stops,
        callbacks=[Watch(stops, label, recipe["max_steps"], past.global_step)],
    )
    seen = train_on(trainer, newest, past, label)
    history = [entry for entry in trainer.state.log_history if entry["step"] <= seen.global_step]
    best = best_step(history)
    if best is None:
        raise FloatingPointError(
            f"{label}: loss or gradient was not finite after step {seen.global_step}, before dev "
            "was looked at. Lower learning_rate or eval_steps."
        )
    looks = {entry["step"]: entry for entry in history if "eval_loss" in entry}
    last = {n: t.detach().cpu().clone() for n, t in translator.state_dict().items()}
    summary = {
        "steps": seen.global_step,
        "stop_reason": stops.reason or MAX_STEPS,
        "best_step": best,
        "dev_peak": looks[best]["accuracy"],
        "dev_final": looks[max(looks)]["accuracy"],
        "parameters": sum(p.numel() for p in translator.parameters()),
    }
    curve = [{n: v for n, v in e.items() if not n.startswith("train_")} for e in history]
    curve = [entry for entry in curve if "loss" in entry or "eval_loss" in entry]
    record = {"resumes": resumed, "seconds": round(time.perf_counter() - started, 2)}
    kept = load_file(state / f"best-{best}.safetensors")
    return Trained(kept, last, summary, curve, record)
