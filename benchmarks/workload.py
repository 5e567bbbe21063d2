"""The workload of the GPU benchmark: a random model of 3.4 billion weights, items and samples.

Shape, hardware and recipe are those of config/rehearsal3b.yaml, and so of the real study.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Ministral3ForCausalLM, PreTrainedTokenizerFast

from ablation.config.load import load_study
from ablation.config.study import ComputeSettings, RandomBase
from ablation.model.checkpoints import compile_layers
from ablation.model.packing import Example
from ablation.model.random_base import ministral_config

CONFIG = Path(__file__).resolve().parents[1] / "config"
STUDY = load_study({"extends": "rehearsal3b.yaml"}, CONFIG)  # the real one, but for the weights
MICRO = load_study({}, CONFIG)
# The shape of SmolLM2-135M.
SMALL = RandomBase(
    seed=1,
    vocabulary=49_152,
    width=576,
    feed_forward=1536,
    layers=30,
    heads=9,
    key_value_heads=3,
    head_dim=64,
)


@dataclass(frozen=True)
class Size:
    """The size of a benchmark. `toy` marks a rehearsal, whose numbers mean nothing."""

    toy: bool
    shape: RandomBase  # of the model
    hardware: ComputeSettings  # of this repository's scoring and training
    items: int
    loop_items: int  # for scorers that take seconds for an item
    checked_items: int  # these are scored in float32 too
    steps: int  # timed optimizer steps
    row_tokens: tuple[int, ...]  # capacities of rows in training
    throughput_examples: int  # they make an optimizer step of some 16 thousand tokens
    prompt_lengths: tuple[int, ...]
    growth_tokens: int  # scored at each prompt length
    long_prompts: tuple[int, ...]  # tokens of long items
    long_items: int  # scored at each of these lengths
    long_window: int  # tokens of the window under which they are scored
    job_items: int  # of a whole scoring job
    matrix: int

    @property
    def device(self) -> str:
        return "cuda" if self.hardware.gpu else "cpu"

    @property
    def vocabulary(self) -> int:
        return self.shape.vocabulary


FULL = Size(
    toy=False,
    shape=STUDY.random,
    hardware=STUDY.hardware,
    items=512,
    loop_items=32,
    checked_items=48,
    steps=6,
    row_tokens=(STUDY.finetune.row_tokens, 3072),  # the study's, and shorter ones
    throughput_examples=96,
    prompt_lengths=(64, 256, 1024, 4096, 8192),
    growth_tokens=65_536,
    long_prompts=(4096, 8192, 16_384, 32_768),
    long_items=2,
    long_window=4096,
    job_items=7653,
    matrix=8192,
)
TOY = Size(
    toy=True,
    shape=MICRO.random,
    hardware=MICRO.hardware,
    items=6,
    loop_items=2,
    checked_items=4,
    steps=1,
    row_tokens=(1024,),
    throughput_examples=4,
    prompt_lengths=(16, 32),
    growth_tokens=300,
    long_prompts=(96, 160),
    long_items=1,
    long_window=24,
    job_items=4,
    matrix=64,
)


def make_model(size: Size, attention: str | None = None) -> Ministral3ForCausalLM:
    """A decoder of random weights, in eval mode; with a given `attention` it is not compiled."""
    config = ministral_config(size.shape, use_cache=False)
    config.name_or_path = "random"
    torch.manual_seed(0)
    with torch.device(size.device):
        model = Ministral3ForCausalLM._from_config(
            config,
            dtype=getattr(torch, size.hardware.dtype),
            attn_implementation=attention or size.hardware.attention,
        )
    if attention is None and size.hardware.compile:
        compile_layers(model)
    return model.eval()


def make_tokenizer(size: Size) -> PreTrainedTokenizerFast:
    """One token for each word: four special ones, then w4, w5, ... up to the vocabulary's end."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "<pad>",
        *(f"w{i}" for i in range(4, size.vocabulary)),
    ]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def make_items(size: Size, count: int, prompt: int | None = None) -> list[Example]:
    """HellaSwag-like items: a prompt of about 75 tokens (or `prompt`), four endings of about 28."""
    rng = random.Random(1)

    def words(mean: float, spread: float, least: int) -> list[int]:
        return [
            rng.randrange(20, size.vocabulary)
            for _ in range(max(least, round(rng.gauss(mean, spread))))
        ]

    spread = 25 if prompt is None else 0
    return [
        Example(words(prompt or 75, spread, 12), [words(28, 9, 4) for _ in range(4)])
        for _ in range(count)
    ]


def as_ids(items: list[Example]) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Requests in the form that `_loglikelihood_tokens` takes."""
    return [(("", ""), item.prompt, ending) for item in items for ending in item.continuations]


def as_strings(items: list[Example]) -> list[Instance]:
    """Requests in the form that `loglikelihood` takes."""

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)

    requests = []
    for number, item in enumerate(items):
        for choice, ending in enumerate(item.continuations):
            pair = (text(item.prompt), " " + text(ending))
            requests.append(Instance("loglikelihood", {}, pair, choice))
            requests[-1].doc_id = number
    return requests


def make_samples(size: Size, count: int, length: int | None = None) -> list[Example]:
    """Alpaca-like samples, about 150 tokens each; or all of `length`, a quarter of it prompt."""
    rng = random.Random(2)

    def words(number: int) -> list[int]:
        return [rng.randrange(20, size.vocabulary) for _ in range(number)]

    def sample() -> Example:
        prompt = min(400, max(12, int(rng.lognormvariate(3.6, 0.5))))
        response = min(600, max(3, int(rng.lognormvariate(4.5, 0.8))))
        if length is not None:
            prompt, response = length // 4, length - length // 4
        return Example(words(prompt), [words(response)])

    return [sample() for _ in range(count)]


def with_wider_weights(model: torch.nn.Module) -> torch.nn.Module:
    """A random model whose weights are three times as wide, so that greedy texts seldom loop."""
    with torch.no_grad():
        for layer in model.model.layers:
            for weight in layer.parameters():
                if weight.dim() > 1:
                    weight.mul_(3)
    return model
