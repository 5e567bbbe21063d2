"""Measures what an arm costs: KV cache, latency, peak memory and lengths, next to its quality.

Both models stay loaded. Latency is the time from text to text for one question at a time, after a
warm-up and with the GPU synchronized. It includes the source's reading and generation if the arm
needs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.bridge.data.prompts import Question, draft_text, problem_with_draft
from ablation.bridge.evaluation.bridged_answers import translate
from ablation.bridge.evaluation.generate import Generated, generate
from ablation.bridge.evaluation.kv_cache import cache_bytes, cache_formula
from ablation.bridge.evaluation.scores import score_answer
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.evaluation.text_messages import (
    message_bytes,
    message_row,
    text_message,
    with_messages,
)
from ablation.bridge.model.activations import source_activations
from ablation.bridge.model.batches import Row
from ablation.bridge.model.embeddings import input_embeddings
from ablation.bridge.model.forwards import MIB
from ablation.bridge.model.pair import FrozenModel, Pair
from ablation.bridge.model.translator_layers import Translator
from ablation.config.bridge_blocks import Recipe
from ablation.console.progress import Progress
from ablation.vocabulary.bridge import ARMS, SOFT_ONLY, fewest_soft_token_bytes


class Cost(NamedTuple):
    """One arm on one question; memory in MiB, time in seconds, lengths in tokens."""

    text: str
    input_len: int  # of the answering model, soft tokens included
    output_len: int
    kv_cache_mb: float  # of the answering model, measured
    kv_formula_mb: float
    source_kv_mb: float  # of the source while it reads or drafts
    both_kv_mb: float  # of the answering model and of the source
    message_bytes: int  # what the source sends: soft tokens as they are, or UTF-8 text
    latency_sec: float
    peak_mem_mb: float | None  # of the GPU; None on a CPU
    mem_delta_mb: float | None


class Answer(NamedTuple):
    """What an arm did for one question."""

    model: PreTrainedModel  # the answering model
    generated: Generated
    input_len: int
    source_tokens: int = 0  # tokens in the source's KV cache
    message_bytes: int = 0  # what the source sent to the target


Arm = Callable[[Question], Answer]


def arm_functions(pair: Pair, translator: Translator, recipe: Recipe, layer: int) -> dict[str, Arm]:
    """{arm: a function that answers one question}."""
    source, target = pair
    width = input_embeddings(target.model).weight.shape[1]

    def run(frozen: FrozenModel, row: Row, soft: Tensor | None = None) -> Generated:
        return generate(
            frozen,
            [row],
            soft,
            mode=recipe.mode if soft is not None else SOFT_ONLY,
            max_new_tokens=recipe.max_new_tokens,
            batch_size=1,
        )

    def source_alone(question: Question) -> Answer:
        row = source.encoder.text_row(question)
        return Answer(source.model, run(source, row), len(row.ids))

    def target_alone(question: Question) -> Answer:
        row = target.encoder.text_row(question)
        return Answer(target.model, run(target, row), len(row.ids))

    def latent(question: Question) -> Answer:
        activations = source_activations(source, [question.text], layer, 1)
        soft = translate(translator, activations.rows())
        row = target.encoder.bridged_row(translator.k, recipe.mode, question)
        tokens = len(activations.values)
        return Answer(target.model, run(target, row, soft), len(row.ids), tokens, soft.nbytes)

    def token_budget(question: Question) -> Answer:
        row = target.encoder.budget_row(translator.k, question)
        return Answer(target.model, run(target, row), len(row.ids))

    def source_draft(question: Question) -> tuple[str, int]:
        """What the source generates, and the tokens in its cache."""
        row = source.encoder.text_row(question)
        draft = run(source, row)
        return draft.texts[0], len(row.ids) + draft.lengths[0] - 1

    def text_answer(question: Question) -> Answer:
        draft, tokens = source_draft(question)
        message = text_message(draft, fewest_soft_token_bytes(translator.k, width))
        row = message_row(target.encoder, question, message)
        answered = with_messages(run(target, row), [message])
        return Answer(target.model, answered, len(row.ids), tokens, message_bytes(message))

    def cascade(question: Question) -> Answer:
        draft, tokens = source_draft(question)
        message = draft_text(draft)
        row = target.encoder.problem_row(problem_with_draft(question.whole, message))
        return Answer(target.model, run(target, row), len(row.ids), tokens, message_bytes(message))

    arms = (source_alone, target_alone, latent, token_budget, text_answer, cascade)
    return dict(zip(ARMS, arms, strict=True))


def measure(pair: Pair, arm: Arm, question: Question) -> Cost:
    """Run one arm on one question and measure it."""
    cuda = pair.target.model.device.type == "cuda"
    before = _reset_memory() if cuda else 0.0
    started = time.perf_counter()
    model, generated, input_len, source_tokens, sent = arm(question)
    if cuda:
        torch.cuda.synchronize()
    latency = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / MIB if cuda else None
    cached = input_len + generated.lengths[0] - 1  # the last token is generated but not read
    source = pair.source.model
    source_bytes = cache_formula(source.config, source_tokens, source.dtype.itemsize)
    measured_bytes = cache_bytes(generated.cache)
    return Cost(
        generated.texts[0],
        input_len,
        generated.lengths[0],
        measured_bytes / MIB,
        cache_formula(model.config, cached, model.dtype.itemsize) / MIB,
        source_bytes / MIB,
        (measured_bytes + source_bytes) / MIB,
        sent,
        latency,
        peak,
        None if peak is None else peak - before,
    )


def _reset_memory() -> float:
    """Reset the GPU's peak memory; return the memory in use (MiB)."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() / MIB


def costs_per_sample(
    pair: Pair,
    translator: Translator,
    recipe: Recipe,
    layer: int,
    records: Sequence[Mapping],
    warm_up: int = 3,
) -> list[dict]:
    """One object a question, as docs/bridge.md describes inference_per_sample.jsonl.

    All arms answer a question before the next question begins, and each arm is the first one
    equally often. So a busy moment of the machine, and the cost of the first occurrence of a
    length, fall on all arms alike.
    """
    arms = arm_functions(pair, translator, recipe, layer)
    found: list[dict] = []
    for record in records[:warm_up]:
        for arm in arms.values():
            arm(Question.of(record))
    progress = Progress("arms, one question at a time", len(records))
    for number, record in enumerate(records):
        sample = {
            "sample_id": number,
            "question": Question.of(record).whole,
            "gold_answer": record["answer"],
        }
        first = number % len(ARMS)
        costs = {
            name: measure(pair, arms[name], Question.of(record))
            for name in ARMS[first:] + ARMS[:first]
        }
        for name in ARMS:
            cost = costs[name]
            score = score_answer(cost.text, record)
            sample[name] = {
                "method": name,
                "generated_text": cost.text,
                **{n: v for n, v in cost._asdict().items() if n != "text"},
                "total_seq_len": cost.input_len + cost.output_len,
                "em": int(score.correct),
                "f1": score.f1,
            }
            if name == "latent":
                sample[name]["soft_tokens"] = translator.k
        found.append(sample)
        latencies = [f"{name} {costs[name].latency_sec:.2f} s" for name in ARMS]
        progress.update(number + 1, ", ".join(latencies))
    return found


def arm_sections(samples: Sequence[Mapping]) -> dict[str, dict]:
    """The sections of run.json, as `SectionMeter` has them: one for each arm."""
    meter = SectionMeter("one question at a time")
    for arm in ARMS:
        costs = [sample[arm] for sample in samples]
        peak = max((cost["peak_mem_mb"] or 0 for cost in costs), default=0)
        seconds = sum(cost["latency_sec"] for cost in costs)
        meter.add(arm, len(costs), seconds, round(peak) or None)
    return meter.sections
