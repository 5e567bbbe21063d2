"""`ablation sample`: the same prompts through the base and its finetuned models, side by side.

Prefill under a mask, then causal decoding. Models are found, and their bytes checked, by the
manifests of a study's results.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablation.alpaca import alpaca_prompt
from ablation.hub import model_folder
from ablation.lm import MaskedLM
from ablation.models import load
from ablation.provenance import read_json_lines, read_manifest, write_text
from ablation.tables import WIDTH

CHECKPOINTS = "stage[35]_*/*/seed*/manifest.json"
FORMS = (".jsonl", ".csv", ".md")


class CannotSample(ValueError):
    """The request cannot be met; the message says what is there and what to do."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and, where it is known, how it should go on."""

    text: str
    answer: str = ""


@dataclass(frozen=True)
class Model:
    """A model of a study: `base`, or a recipe and its seed."""

    name: str
    seed: int | None
    manifest: Path

    @property
    def label(self) -> str:
        return self.name if self.seed is None else f"{self.name} seed {self.seed}"

    def folder(self) -> Path:
        """The weights' folder. Raises StaleInput when it, or its record, is not as it was made."""
        made_by = json.loads(self.manifest.read_text())["stamp"]["hash"]
        return model_folder(self.manifest, read_manifest(self.manifest, made_by))


@dataclass(frozen=True)
class Continuation:
    """What one model made of one prompt under one mask; a row of the file."""

    prompt: str
    answer: str
    model: str
    seed: int | None
    mask: str
    text: str


def models_of(results: Path, recipes: Sequence[str], seeds: Sequence[int]) -> list[Model]:
    """The base and the finetuned models asked for; without a recipe all, without a seed the first.

    Raises CannotSample when the study or one of the models asked for is not there.
    """
    base = results / "base" / "manifest.json"
    if not base.is_file():
        raise CannotSample(f"{base} was not found. Make it: snakemake --cores all {base}")
    trained = []
    for path in sorted(results.glob(CHECKPOINTS)):
        manifest = json.loads(path.read_text())
        trained.append(Model(manifest["recipe"], manifest["seed"], path))
    if not seeds:
        seeds = [min((model.seed for model in trained), default=0)]
    chosen = [m for m in trained if m.seed in seeds and (not recipes or m.name in recipes)]
    for recipe in [r for r in recipes if r != "base"]:
        for seed in seeds:
            if not any((m.name, m.seed) == (recipe, seed) for m in chosen):
                there = ", ".join(m.label for m in trained) or "none; make some: snakemake stage3"
                raise CannotSample(f"{results} has no {recipe} seed {seed}. It has: {there}")
    return [Model("base", None, base), *chosen]


def prompts_of(
    results: Path, texts: Sequence[str], file: Path | None, instructions: bool
) -> list[Prompt]:
    """Those given, those of a file, or one item of each of the study's tasks.

    A `.jsonl` file holds Alpaca records or objects with `prompt` (and `answer`), any other file one
    prompt a line. `instructions`: what is given is put into the Alpaca form of the finetuning.
    """
    given = [{"prompt": text} for text in texts]
    if file is not None:
        if not file.is_file():
            raise CannotSample(f"{file} was not found")
        try:
            read = (
                read_json_lines(file)
                if file.suffix == ".jsonl"
                else [{"prompt": line} for line in file.read_text().splitlines() if line.strip()]
            )
        except ValueError as fault:  # no JSON, or no text at all
            raise CannotSample(f"{file} cannot be read: {fault}") from None
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
        if "contexts" in item:  # the choice stands in the context: here the right one
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

    `temperature` 0 decodes greedily; above it, `seed` is set anew for each continuation, so that
    one does not depend on the others. Raises CannotSample when a prompt is too long.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise CannotSample(f"--device {device}: cpu or cuda was expected") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise CannotSample(f"--device {device}: torch sees no GPU here; leave it out for the CPU")
    wanted = {"until": [], "max_gen_toks": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        wanted |= {"temperature": temperature}
    for one in models:
        model, tokenizer = load(one.folder(), dtype=dtype, device=device)
        lm = MaskedLM(model, tokenizer, batch_tokens=1, label=one.label)  # one prompt at a time
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
                request = Instance("generate_until", {}, (prompt.text, dict(wanted)), 0)
                (text,) = lm.generate_until([request], disable_tqdm=True)
                yield Continuation(prompt.text, prompt.answer, one.name, one.seed, mask, text)


def show(continuations: Sequence[Continuation]) -> None:
    """Print one table a prompt: a row a model, a column a mask."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    masks = list(dict.fromkeys(c.mask for c in continuations))
    for prompt in dict.fromkeys(c.prompt for c in continuations):
        own = [c for c in continuations if c.prompt == prompt]
        known = f"\nexpected: {own[0].answer.strip()}" if own[0].answer else ""
        table = Table(title=Text(prompt + known), title_justify="left", show_lines=True)
        for name in ("model", *masks):
            table.add_column(name, overflow="fold")
        for model, seed in dict.fromkeys((c.model, c.seed) for c in own):
            texts = [c.text for c in own if (c.model, c.seed) == (model, seed)]
            label = model if seed is None else f"{model} seed {seed}"
            table.add_row(label, *(Text(text.strip()) for text in texts))
        console.print(table)


def write(continuations: Sequence[Continuation], file: Path) -> None:
    """All rows as .jsonl, .csv or a .md table."""
    rows = [asdict(c) for c in continuations]
    if file.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif file.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    elif file.suffix == ".md":
        lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
        lines += ["| " + " | ".join(map(_cell, row.values())) + " |" for row in rows]
        text = "\n".join(lines) + "\n"
    else:
        raise CannotSample(f"--out {file}: expected a name that ends in {', '.join(FORMS)}")
    write_text(file, text)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return text.strip().replace("|", "\\|").replace("\n", "<br>")
