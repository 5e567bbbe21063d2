"""The first study's Trainer over a translator between two frozen models.

Checkpoints, resuming and early stopping are those of `ablation.training`. This module defines the
content of a batch, the loss, and the dev evaluation that chooses the reported weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablation.bridge.data.prompts import Question
from ablation.bridge.evaluation.bridged_answers import answer_quality, generate_answers, translate
from ablation.bridge.model.activations import target_logits
from ablation.bridge.model.answer_logits import answer_logits
from ablation.bridge.model.batches import Batch, Row, make_batch
from ablation.bridge.model.embeddings import input_embeddings
from ablation.bridge.model.forwards import run_in_batches
from ablation.bridge.model.pair import FrozenModel
from ablation.bridge.model.ragged import padded
from ablation.bridge.model.splits import Split
from ablation.bridge.model.translator_layers import Soft, Translator, embedding_rms
from ablation.bridge.training import losses
from ablation.bridge.training.step_clock import StepClock
from ablation.config.bridge_blocks import Recipe
from ablation.model.packing import IGNORED_LABEL
from ablation.provenance.atomic import atomic_path
from ablation.training.resumable_trainer import ResumableTrainer
from ablation.vocabulary.bridge import DIFFUSION, SOURCE_FREE

EVAL_TOKENS = 8192  # tokens of a dev forward; logits are wide


class BridgeTrainer(ResumableTrainer):
    """Trains `model`, a translator. The frozen target is outside it, so it is neither saved nor
    updated."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        target: FrozenModel,
        split: Split,
        dev: Split,
        parts: int = 1,
        **kwargs: Any,
    ) -> None:
        """`parts` is the number of the target's forwards for a micro-batch (`predict_answers`)."""
        self.target, self.split, self.dev = target, split, dev
        super().__init__(**kwargs)
        self.recipe = recipe
        self.model_accepts_loss_kwargs = False
        self.rms = embedding_rms(input_embeddings(target.model).weight)
        self.parts, self.clock = parts, StepClock()
        self.add_callback(self.clock)
        # The terms of the last step without their weights, and those weights, for the curve.
        self.terms: dict[str, Tensor] = {}
        self.applied: dict[str, float] = {}

    @property
    def translator(self) -> Translator:
        """The model in training."""
        return cast(Translator, self.model)

    def rows(self, split: Split, chosen: Sequence[int]) -> list[Row]:
        """The target's inputs for the questions `chosen` of a split, with their answers."""
        recipe, encoder = self.recipe, self.target.encoder
        rows = []
        for record in (split.records[i] for i in chosen):
            solution = record.get("solution", "")
            answer = encoder.encode_answer(record["answer"], recipe.eos, solution)
            question = Question.of(record)
            rows.append(encoder.bridged_row(self.translator.k, recipe.mode, question, answer))
        return rows

    def collate(self, batch: Sequence[int]) -> dict[str, Any]:
        """The tensors of a micro-batch: the questions `batch` of the training split."""
        return self.collate_from(self.split, batch)

    def collate_from(self, split: Split, chosen: Sequence[int]) -> dict[str, Any]:
        """The tensors of a micro-batch of any split, in the form that the Trainer expects."""
        encoder = self.target.encoder
        answered = make_batch(self.rows(split, chosen), encoder.pad)
        activations, mask = padded([split.activations[i] for i in chosen])
        questions = [encoder.text_row(Question.of(split.records[i])) for i in chosen]
        part: dict[str, Any] = {
            "batch": vars(answered),
            "activations": activations,
            "mask": mask,
            "questions": vars(make_batch(questions, encoder.pad)),
        }
        if split.teacher is not None:
            logprobs, ids = split.teacher
            lengths = (answered.labels >= 0).sum(1).tolist()
            kept = list(zip(chosen, lengths, strict=True))
            part["teacher"] = torch.cat([logprobs[i][:length] for i, length in kept])
            part["teacher_ids"] = torch.cat([ids[i][:length] for i, length in kept]).long()
        return {"parts": [part], "tokens": int(answered.mask.sum())}

    def loss_terms(self, part: Mapping[str, Any]) -> dict[str, Tensor]:
        """{term: its value without weight}; a term whose weight is zero is not computed."""
        weights = self.weights()
        rows, questions = Batch(**part["batch"]), Batch(**part["questions"])
        with torch.no_grad():
            embedded = input_embeddings(self.target.model)(questions.ids)
            parts, present = losses.question_parts(embedded, questions.span, self.translator.k)
        teacher = (parts, present) if weights["flow"] else None
        activations = part["activations"].float()
        soft: Soft = self.translator(activations, part["mask"], teacher=teacher)
        logits, targets = self.predict_answers(rows, soft.tokens)
        terms = {"cross_entropy": losses.cross_entropy(logits, targets)}
        if weights["kl"]:
            terms["kl"] = losses.kl(logits, part["teacher"], part["teacher_ids"])
        if weights["info_nce"]:
            span = questions.span[..., None]
            mean = (embedded * span).sum(1) / span.sum(1)
            temperature = self.recipe.weights.temperature
            terms["info_nce"] = losses.info_nce(soft.tokens, mean, temperature)
        if weights["prompt_alignment"]:
            terms["prompt_alignment"] = losses.prompt_alignment(
                soft.tokens, parts, present, self.rms
            )
        if soft.flow is not None:
            terms["flow"] = soft.flow
        return terms

    def predict_answers(self, rows: Batch, soft: Tensor) -> tuple[Tensor, Tensor]:
        """The target's logits at the answers' tokens [targets, vocabulary], and those tokens.

        With several `parts`, only one part's activations are in memory at a time. They are computed
        again for its gradient, so the loss is the same in less memory.
        """
        size = -(-len(soft) // self.parts)
        found = []
        for start in range(0, len(soft), size):
            own = Batch(**{n: v[start : start + size] for n, v in vars(rows).items()})
            forward = partial(self._forward, own)
            some = soft[start : start + size]
            if self.parts > 1 and soft.requires_grad:
                logits = checkpoint(forward, some, use_reentrant=False)
            else:
                logits = forward(some)
            found.append((logits, own.labels[:, 1:][own.labels[:, 1:] != IGNORED_LABEL]))
        logits, targets = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(targets)

    def _forward(self, rows: Batch, soft: Tensor) -> Tensor:
        logits = target_logits(self.target.model, rows, soft, self.recipe.mode)
        return answer_logits(logits, rows.labels)[0]

    def weights(self) -> dict[str, float]:
        """The weights of all terms at this step.

        The weight of KL grows over `kl_ramp` steps after the warm-up.
        """
        recipe, step = self.recipe, self.state.global_step
        own = recipe.weights
        found = {
            "cross_entropy": 1.0,
            "kl": own.kl,
            "info_nce": own.info_nce,
            "prompt_alignment": own.prompt_alignment,
            "flow": own.flow,
        }
        if found["kl"]:  # never exactly zero, so that the term is in the curve from the first step
            found["kl"] *= max(losses.ramp(step + 1, recipe.warmup_steps, own.kl_ramp), 1e-6)
        if recipe.translator.kind == SOURCE_FREE:  # it reads no question that it could resemble
            found |= dict.fromkeys(("info_nce", "prompt_alignment"), 0.0)
        if recipe.translator.kind != DIFFUSION:
            found["flow"] = 0.0
        return found

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The weighted loss of a micro-batch; its terms are kept for the curve."""
        terms = self.loss_terms(inputs)
        self.terms = {name: value.detach() for name, value in terms.items()}
        self.applied = self.weights()
        return losses.total(terms, self.applied)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the terms and weights of the last step to each logged training loss."""
        if "loss" in logs:
            logs |= {f"raw_{n}": v.item() for n, v in self.terms.items()}
            logs |= {f"weight_{n}": self.applied[n] for n in self.terms}
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """The cross entropy (nats a token) on dev, and the quality of generated answers."""
        recipe, was_training = self.recipe, self.translator.training
        self.translator.eval()
        try:
            chosen = range(min(recipe.eval_samples, len(self.dev.records)))
            soft = translate(self.translator, [self.dev.activations[i] for i in chosen])
            records = [self.dev.records[i] for i in chosen]
            rows = self.rows(self.dev, chosen)

            def read(some: list[int]) -> list[tuple[float, int]]:
                batch = make_batch([rows[i] for i in some], self.target.encoder.pad)
                batch = batch.to(soft.device)
                own = soft[torch.tensor(some, device=soft.device)]
                logits, targets = self.predict_answers(batch, own)
                each = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
                counts = (batch.labels[:, 1:] != IGNORED_LABEL).sum(1).tolist()
                return [(loss.sum().item(), len(loss)) for loss in each.split(counts)]

            lengths = [len(row.ids) + len(row.answer) for row in rows]
            found = run_in_batches(lengths, recipe.eval_batch, read, EVAL_TOKENS)
            loss = sum(nats for nats, _ in found) / sum(count for _, count in found)
            generated = generate_answers(self.target, records, soft, recipe)
        finally:
            self.translator.train(was_training)
        return {"eval_loss": loss, **answer_quality(generated, records)}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on dev, and save the weights if they are the best so far."""
        metrics = super().evaluate(*args, **kwargs)
        step = self.state.global_step
        if best_step(self.state.log_history) == step:
            save_weights(self.translator, best_file(str(self.args.output_dir), step))
        return metrics


def best_step(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The step with the best dev accuracy and, among equals, the lowest dev loss."""
    evaluations = [entry for entry in history if "eval_loss" in entry]
    best = max(evaluations, key=lambda e: (e["accuracy"], -e["eval_loss"]), default=None)
    return None if best is None else best["step"]


def best_file(home: str | Path, step: int) -> Path:
    """The file of the best weights, which were those of `step`."""
    return Path(home) / f"best-{step}.safetensors"


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a copy of the current weights to the disk, where later steps cannot change it."""
    with atomic_path(path) as scratch:
        save_file({n: t.detach().cpu().clone() for n, t in model.state_dict().items()}, scratch)
