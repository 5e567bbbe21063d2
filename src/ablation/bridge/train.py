"""One translator a cell, trained between two frozen models, with the first study's Trainer.

Resume, sealed states and stops are those of `ablation.finetune`; here stand what a batch holds,
what its loss is, and which weights are reported: those best on the dev split, copied to the disk
at that moment, and the last ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ablation.arguments import training_arguments
from ablation.atomic import atomic_path
from ablation.bridge import losses
from ablation.bridge.asking import answers, quality, translate
from ablation.bridge.batches import Batch, Row, Words, batch
from ablation.bridge.cache import padded
from ablation.bridge.clock import Clock
from ablation.bridge.forwards import MIB, free, in_order
from ablation.bridge.inject import embed
from ablation.bridge.translator import KINDS, Soft, Translator, embedding_rms
from ablation.finetune import MaskedTrainer
from ablation.packing import IGNORED_LABEL
from ablation.resume import past_of, train_on
from ablation.states import newest_state, resumes
from ablation.stops import MAX_STEPS, Stops
from ablation.watch import Watch

EVAL_TOKENS = 8192  # of a forward that reads answers on dev: logits are wide


@dataclass(frozen=True)
class Split:
    """Questions of one split with what the frozen models said of them."""

    records: Sequence[Mapping]  # {question, answer}
    states: tuple[Tensor, ...]  # of the source, [tokens, width] each
    teacher: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None  # log-probabilities and ids

    @classmethod
    def of(cls, records: Sequence[Mapping], cached: Mapping[str, tuple[Tensor, ...]]) -> Split:
        teacher = None
        if "teacher" in cached:
            teacher = cached["teacher"], cached["teacher_ids"]
        return cls(records, cached["states"], teacher)


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
        self,
        *args,
        target: PreTrainedModel,
        words: Words,
        split: Split,
        dev: Split,
        parts: int = 1,
        **kw,
    ):
        self.target, self.words, self.split, self.dev = target, words, split, dev
        super().__init__(*args, row_tokens=0, probe=(), **kw)
        self.model_accepts_loss_kwargs = False
        self.rms = embedding_rms(target.get_input_embeddings().weight)
        self.parts, self.clock = parts, Clock()
        self.add_callback(self.clock)
        # of the last step, for the curve: raw values, and the weights that they had in it
        self.terms: dict[str, Tensor] = {}
        self.applied: dict[str, float] = {}

    def rows(self, split: Split, chosen: Sequence[int]) -> list[Row]:
        recipe, k = self.recipe, self.model.k
        records = [split.records[i] for i in chosen]
        answers = [
            self.words.answer(r["answer"], recipe["eos"], r.get("solution", "")) for r in records
        ]
        return [
            self.words.bridged(k, recipe["mode"], r["question"], answer)
            for r, answer in zip(records, answers, strict=True)
        ]

    def collate(self, chosen: list[int], split: Split | None = None) -> dict:
        """Everything of the rows `chosen` that a step needs, as tensors."""
        split = split or self.split
        answered = batch(self.rows(split, chosen), self.words.pad)
        states, mask = padded([split.states[i] for i in chosen])
        asked = batch(
            [self.words.text(split.records[i]["question"]) for i in chosen], self.words.pad
        )
        part = {"batch": vars(answered), "states": states, "mask": mask, "asked": vars(asked)}
        if split.teacher is not None:
            lengths = (answered.labels >= 0).sum(1).tolist()
            kept = list(zip(chosen, lengths, strict=True))
            part["teacher"] = torch.cat([split.teacher[0][i][:n] for i, n in kept])
            part["teacher_ids"] = torch.cat([split.teacher[1][i][:n] for i, n in kept]).long()
        return {"parts": [part], "tokens": int(answered.mask.sum())}

    def loss_terms(self, part: Mapping) -> dict[str, Tensor]:
        """{enabled term: raw value}; a weight of zero switches a term off altogether."""
        recipe, weights = self.recipe, self.weights()
        rows, asked = Batch(**part["batch"]), Batch(**part["asked"])
        table = self.target.get_input_embeddings()
        with torch.no_grad():
            question = table(asked.ids)
            parts, present = losses.stretches(question, asked.span, self.model.k)
        wanted = (parts, present) if weights["flow"] else None
        soft: Soft = self.model(part["states"].float(), part["mask"], teacher=wanted)
        logits, targets = self.said(rows, soft.tokens)
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

    def said(self, rows: Batch, soft: Tensor) -> tuple[Tensor, Tensor]:
        """The target's logits at the answers' tokens, and those tokens.

        In several `parts` only one of them holds its activations at a time, which are computed
        again for its gradient: the same loss in less memory.
        """
        size = -(-len(soft) // self.parts)
        found = []
        for start in range(0, len(soft), size):
            own = Batch(**{n: v[start : start + size] for n, v in vars(rows).items()})
            read = partial(self._read, own)
            some = soft[start : start + size]
            if self.parts > 1 and soft.requires_grad:
                logits = checkpoint(read, some, use_reentrant=False)
            else:
                logits = read(some)
            found.append((logits, own.labels[:, 1:][own.labels[:, 1:] != IGNORED_LABEL]))
        logits, targets = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(targets)

    def _read(self, rows: Batch, soft: Tensor) -> Tensor:
        table = self.target.get_input_embeddings()
        logits = self.target(
            inputs_embeds=embed(rows, soft, table, self.recipe["mode"]),
            attention_mask=rows.mask.long(),
            position_ids=rows.positions,
            use_cache=False,
        ).logits
        return losses.answer_logits(logits, rows.labels)[0]

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
        self.applied = self.weights()
        return losses.total(terms, self.applied)

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs |= {f"raw_{n}": v.item() for n, v in self.terms.items()}
            logs |= {f"weight_{n}": self.applied[n] for n in self.terms}
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Dev: cross entropy, accuracy, and how often answers are the same, empty or invalid."""
        was_training = self.model.training
        self.model.eval()
        try:
            chosen = range(min(self.recipe["eval_samples"], len(self.dev.records)))
            soft = translate(self.model, [self.dev.states[i] for i in chosen])
            records = [self.dev.records[i] for i in chosen]
            rows = self.rows(self.dev, chosen)

            def read(some: list[int]) -> list[tuple[float, int]]:
                part = batch([rows[i] for i in some], self.words.pad).to(soft.device)
                logits, targets = self.said(part, soft[torch.tensor(some, device=soft.device)])
                each = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
                counts = (part.labels[:, 1:] != IGNORED_LABEL).sum(1).tolist()
                return [(loss.sum().item(), len(loss)) for loss in each.split(counts)]

            lengths = [len(row.ids) + len(row.answer) for row in rows]
            told = in_order(lengths, self.recipe["eval_batch"], read, EVAL_TOKENS)
            loss = sum(nats for nats, _ in told) / sum(count for _, count in told)
            said = answers(self.target, self.words, records, soft, self.recipe, self.model.k)
        finally:
            self.model.train(was_training)
        return {"eval_loss": loss, **quality(said, records)}

    def evaluate(self, *args, **kwargs):
        metrics = super().evaluate(*args, **kwargs)
        step = self.state.global_step
        if best_step(self.state.log_history) == step:
            keep(self.model, Path(self.args.output_dir), step)
        return metrics


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
    """Train one translator, resuming from `state` if it can. The seed decides weights and order.

    Out of memory splits the target's forwards and goes on from the newest state: the loss stays the
    same, the micro-batch too, within which InfoNCE contrasts.
    """
    job = (target, words, splits, recipe, k, seed, hardware, label, Path(state))
    parts = 1
    while True:
        try:
            return _train_cell(*job, parts)
        except torch.OutOfMemoryError:
            if parts >= recipe["micro_batch_examples"]:
                raise
        parts *= 2
        free()
        print(f"{label}: out of memory, now {parts} forwards a micro-batch", file=sys.stderr)


def _train_cell(
    target: PreTrainedModel,
    words: Words,
    splits: Mapping[str, Split],
    recipe: Mapping,
    k: int,
    seed: int,
    hardware: Mapping,
    label: str,
    state: Path,
    parts: int,
) -> Trained:
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
        parts=parts,
        recipe=recipe,
        stops=stops,
        callbacks=[Watch(stops, label, recipe["max_steps"], past.global_step)],
    )
    clock = trainer.clock
    if cuda := torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
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
    record = {
        "resumes": resumed,
        "forwards": parts,
        "seconds": round(time.perf_counter() - started, 2),
        "seconds_a_step": clock.median(),
        "peak_mem_mb": round(torch.cuda.max_memory_allocated() / MIB) if cuda else None,
    }
    if clock.seconds:
        memory = f", peak {record['peak_mem_mb']} MiB" if cuda else ""
        print(f"{label}: {clock.median():.3f} s a step{memory}", file=sys.stderr, flush=True)
    kept = load_file(state / f"best-{best}.safetensors")
    return Trained(kept, last, summary, curve, record)
