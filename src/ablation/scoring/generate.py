"""Continues the same prompts with the base and the finetuned models of a study.

The command `ablation sample` and the report use it. Prefill runs under a mask, decoding is causal.
Models are found through the manifests of the study's results, and their bytes are verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lm_eval.api.instance import Instance

from ablation.data.alpaca import alpaca_prompt
from ablation.data.continuations import CannotSample, Continuation
from ablation.data.hub import model_folder
from ablation.data.json_lines import read_json_lines
from ablation.interventions.loading import load
from ablation.model.masks import taken_window
from ablation.provenance.manifests import read_manifest
from ablation.scoring.masked_lm import MaskedLM

CHECKPOINTS = "stage[35]_*/*/seed*/manifest.json"


@dataclass(frozen=True)
class Prompt:
    """A prompt and its right continuation, or "" if that is not known."""

    text: str
    answer: str = ""


@dataclass(frozen=True)
class Model:
    """A model of a study: `base`, which has no seed, or a recipe with its seed."""

    name: str
    seed: int | None
    manifest: Path

    @property
    def label(self) -> str:
        return self.name if self.seed is None else f"{self.name} seed {self.seed}"

    def folder(self) -> Path:
        """The folder of the weights. Raises StaleInput if it or its manifest was changed."""
        fingerprint = json.loads(self.manifest.read_text("utf-8"))["fingerprint"]["hash"]
        return model_folder(self.manifest, read_manifest(self.manifest, fingerprint))


def models_of(results: Path, recipes: Sequence[str], seeds: Sequence[int]) -> list[Model]:
    """The base, and the finetuned models of `recipes` and `seeds`.

    No recipes means all recipes; no seeds means the smallest seed of the study. Raises CannotSample
    if the study or one of the models does not exist.
    """
    base = results / "base" / "manifest.json"
    if not results.is_dir():
        studies = sorted(path.parts[-3] for path in results.parent.glob("*/base/manifest.json"))
        raise CannotSample(
            f"{results} was not found. Studies with a base there: "
            f"{', '.join(studies) or 'none; `make demo` makes one'}"
        )
    if not base.is_file():
        raise CannotSample(f"{base} was not found. Make it: snakemake --cores all {base}")
    trained = []
    for path in sorted(results.glob(CHECKPOINTS)):
        manifest = json.loads(path.read_text("utf-8"))
        trained.append(Model(manifest["recipe"], manifest["seed"], path))
    if not seeds:
        seeds = [min((model.seed for model in trained if model.seed is not None), default=0)]
    chosen = [m for m in trained if m.seed in seeds and (not recipes or m.name in recipes)]
    for recipe in [r for r in recipes if r != "base"]:
        for seed in seeds:
            if not any((m.name, m.seed) == (recipe, seed) for m in chosen):
                existing = ", ".join(m.label for m in trained)
                existing = existing or "none; make some: snakemake stage3"
                raise CannotSample(f"{results} has no {recipe} seed {seed}. It has: {existing}")
    return [Model("base", None, base), *chosen]


def prompts_of(
    results: Path, texts: Sequence[str], file: Path | None, instructions: bool
) -> list[Prompt]:
    """The prompts in `texts` and `file`, or one item of each of the study's tasks without both.

    A `.jsonl` file holds Alpaca records, or objects with `prompt` and perhaps `answer`; any other
    file holds one prompt per line. `instructions` puts plain prompts into the Alpaca template of
    the finetuning. Raises CannotSample if a file cannot be read or a prompt is empty.
    """
    given = [{"prompt": text} for text in texts]
    if file is not None:
        if not file.is_file():
            raise CannotSample(f"{file} was not found")
        try:
            read = (
                read_json_lines(file)
                if file.suffix == ".jsonl"
                else [
                    {"prompt": line}
                    for line in file.read_text("utf-8").splitlines()
                    if line.strip()
                ]
            )
        except ValueError as error:  # not JSON, or not text
            raise CannotSample(f"{file} cannot be read: {error}") from None
        if not read:
            raise CannotSample(f"{file} holds no prompt; one a line was expected")
        given += read
    if not given:
        given = list(_items(results / "base" / "items"))
    prompts = []
    for number, record in enumerate(given, 1):
        if "instruction" in record:
            prompts.append(Prompt(alpaca_prompt(record), record.get("output", "")))
        elif isinstance(record.get("prompt"), str) and record["prompt"].strip():
            text = record["prompt"]
            text = alpaca_prompt({"instruction": text}) if instructions else text
            prompts.append(Prompt(text, record.get("answer", "")))
        else:
            raise CannotSample(
                f"prompt {number} is empty, or has neither `prompt` nor `instruction`"
            )
    if not prompts:
        raise CannotSample(f"{results} has no items of its own: give --prompt or --file")
    return prompts


def _items(folder: Path) -> Iterator[dict]:
    for file in sorted(folder.glob("*.jsonl")):
        item = read_json_lines(file)[0]
        if "contexts" in item:  # the choice is a part of the context; take the right one
            yield {"prompt": item["contexts"][item["gold"]], "answer": item["continuation"]}
        else:
            yield {"prompt": item["query"], "answer": item["choices"][item["gold"]]}


def sample(
    models: Sequence[Model],
    prompts: Sequence[Prompt],
    masks: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: str,
    dtype: str,
) -> Iterator[Continuation]:
    """Continuations of every prompt by every model under every mask.

    `temperature` 0 decodes greedily. At a higher temperature `seed` is set again before each
    continuation, so that no continuation depends on the others. Raises CannotSample if a prompt is
    too long for a model, or `device` is not available.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise CannotSample(f"--device {device}: cpu, cuda or mps was expected") from None
    backends = {"cuda": torch.cuda, "mps": torch.mps}
    if kind in backends and not backends[kind].is_available():
        raise CannotSample(f"--device {device}: torch sees no GPU here; leave it out for the CPU")
    settings = {"until": [], "max_gen_toks": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        settings |= {"temperature": temperature}
    for one in models:
        model, tokenizer = load(one.folder(), dtype=dtype, device=device)
        window = taken_window(model)
        if window and window.when != "prefill":
            raise CannotSample(
                f"{one.label} was trained under a window that decoded tokens have too, under which "
                "no text can be generated: leave it out (--recipe)"
            )
        lm = MaskedLM(model, tokenizer, batch_tokens=1, label=one.label)  # batches of one prompt
        for prompt in prompts:
            length = len(lm.tok_encode(prompt.text))
            if length + max_new_tokens > lm.max_length:
                raise CannotSample(
                    f"{length} tokens of prompt and {max_new_tokens} new ones are more than the "
                    f"{lm.max_length} that {one.label} can read: {prompt.text[:60]!r}..."
                )
            for mask in masks:
                lm.mask = mask
                torch.manual_seed(seed)
                request = Instance("generate_until", {}, (prompt.text, dict(settings)), 0)
                (text,) = lm.generate_until([request], disable_tqdm=True)
                yield Continuation(prompt.text, prompt.answer, one.name, one.seed, mask, text)
