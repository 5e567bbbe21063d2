"""What an arm costs: cache memory measured and by formula, latency, peak memory, lengths, quality.

Both models stay loaded. Latency is one question at a time, after warm-up, synchronised, from text
to text: reading by the source and its own generation count where an arm needs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig

from ablation.bridge import cache, prompts
from ablation.bridge.asking import translate
from ablation.bridge.forwards import MIB, Meter
from ablation.bridge.generate import generate
from ablation.bridge.pair import Pair
from ablation.bridge.prompts import ARMS
from ablation.bridge.scoring import score
from ablation.progress import Progress


def cache_bytes(held: DynamicCache) -> int:
    """Bytes of every key and value in a cache, counted on the tensors themselves."""
    layers = [(layer.keys, layer.values) for layer in held.layers]
    return sum(t.numel() * t.element_size() for pair in layers for t in pair)


def cache_formula(config: PreTrainedConfig, tokens: int, bytes_a_number: int) -> int:
    """2 x layers x key/value heads x head size x bytes x tokens: grouped heads are held once."""
    config = config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads
    return 2 * config.num_hidden_layers * heads * size * bytes_a_number * tokens


class Cost(NamedTuple):
    """One arm on one question; memory in MiB, time in seconds."""

    text: str
    input_len: int  # what the answering model reads: tokens, soft ones counted
    output_len: int
    kv_cache_mb: float  # of the answering model, measured
    kv_formula_mb: float
    source_kv_mb: float  # what the source held to read, and to draft
    latency_sec: float
    peak_mem_mb: float | None  # of the GPU; None on a CPU
    mem_delta_mb: float | None


def arms(
    pair: Pair, translator: nn.Module, recipe: Mapping, layer: int
) -> dict[str, Callable[[str], tuple]]:
    """{arm: question -> (model, generated, input length, tokens the source held)}."""
    source, source_words, target, target_words = pair
    k = translator.k

    def say(model, words, row, soft=None):
        return generate(
            model,
            words,
            [row],
            soft,
            mode=recipe["mode"] if soft is not None else "soft_only",
            max_new_tokens=recipe["max_new_tokens"],
            batch_size=1,
        )

    def source_alone(question):
        row = source_words.text(question)
        return source, say(source, source_words, row), len(row.ids), 0

    def target_alone(question):
        row = target_words.text(question)
        return target, say(target, target_words, row), len(row.ids), 0

    def latent(question):
        states = cache.source_states(source, source_words, [question], layer, 1)
        soft = translate(translator, states.rows())
        row = target_words.bridged(k, recipe["mode"], question)
        return target, say(target, target_words, row, soft), len(row.ids), len(states.values)

    def token_budget(question):
        row = target_words.budget(k, question)
        return target, say(target, target_words, row), len(row.ids), 0

    def cascade(question):
        own = source_words.text(question)
        draft = say(source, source_words, own)
        row = target_words.text(question, head=prompts.drafted_head(question, draft.texts[0]))
        held = len(own.ids) + draft.lengths[0] - 1
        return target, say(target, target_words, row), len(row.ids), held

    return dict(zip(ARMS, (source_alone, target_alone, latent, token_budget, cascade), strict=True))


def measure(pair: Pair, run: Callable[[str], tuple], question: str) -> Cost:
    """Run one arm on one question and measure it."""
    cuda = pair.target.device.type == "cuda"
    before = _reset() if cuda else 0
    started = time.perf_counter()
    model, generated, length, source_tokens = run(question)
    if cuda:
        torch.cuda.synchronize()
    latency = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / MIB if cuda else None
    size = model.dtype.itemsize
    held = length + generated.lengths[0] - 1  # the last token is said, not read
    source_bytes = cache_formula(pair.source.config, source_tokens, pair.source.dtype.itemsize)
    return Cost(
        generated.texts[0],
        length,
        generated.lengths[0],
        cache_bytes(generated.cache) / MIB,
        cache_formula(model.config, held, size) / MIB,
        source_bytes / MIB,
        latency,
        peak,
        None if peak is None else peak - before,
    )


def _reset() -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() / MIB


def per_sample(
    pair: Pair,
    translator: nn.Module,
    recipe: Mapping,
    layer: int,
    records: Sequence[Mapping],
    warm_up: int = 3,
) -> list[dict]:
    """One object a question, as inference_per_sample.jsonl has them (docs/bridge.md).

    Arms take turns on each question, and at being its first: a busy moment of the machine, or what
    a length costs when it is first met, hits all alike.
    """
    runs, found = arms(pair, translator, recipe, layer), []
    for record in records[:warm_up]:
        for run in runs.values():
            run(record["question"])
    progress = Progress("arms, one question at a time", len(records))
    for number, record in enumerate(records):
        sample = {
            "sample_id": number,
            "question": record["question"],
            "gold_answer": record["answer"],
        }
        first = number % len(ARMS)
        costs = {
            arm: measure(pair, runs[arm], record["question"]) for arm in ARMS[first:] + ARMS[:first]
        }
        for arm in ARMS:
            cost = costs[arm]
            said = score(cost.text, record)
            sample[arm] = {
                "method": arm,
                "generated_text": cost.text,
                **{n: v for n, v in cost._asdict().items() if n != "text"},
                "total_seq_len": cost.input_len + cost.output_len,
                "em": int(said.correct),
                "f1": said.f1,
            }
            if arm == "latent":
                sample[arm]["soft_tokens"] = translator.k
        found.append(sample)
        latencies = [f"{arm} {sample[arm]['latency_sec']:.2f} s" for arm in runs]
        progress.update(number + 1, ", ".join(latencies))
    return found


def spent(samples: Sequence[Mapping]) -> dict[str, dict]:
    """Sections of run.json, as `forwards.Meter` keeps them, of what was measured one by one."""
    meter = Meter("one question at a time")
    for arm in ARMS:
        own = [sample[arm] for sample in samples]
        peak = max((cost["peak_mem_mb"] or 0 for cost in own), default=0)
        seconds = sum(cost["latency_sec"] for cost in own)
        meter.add(arm, len(own), seconds, round(peak) or None)
    return meter.sections
