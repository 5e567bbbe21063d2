"""The model card of a published checkpoint, README.md in its repository.

It says what was taken away, how the model was trained, what came back, which rows leak, how the
model is loaded under what it was trained for, and what everything was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.config.interventions import read_settings
from ablation.provenance.manifests import WEIGHT_SUFFIXES, load_manifest
from ablation.publication.checkpoint import RAW_FORMAT, Checkpoint, NotPublishable
from ablation.publication.eval_results import pins_of
from ablation.publication.licence import Licence
from ablation.report.recovery_columns import warnings_of
from ablation.report.text_tables import TextTables, markdown, markdown_cell, recovery_tables
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO
from ablation.vocabulary.recipes import RECIPE, recipe_of

MASKS = {
    CAUSAL: "Nothing: it was trained under the causal mask, each token seeing those before it.",
    "prefill_bidir": "The causal mask during prefill: every prompt token sees the whole prompt, "
    "and every later token only what came before it.",
    "full_bidir": "The causal mask, everywhere: every token sees every other, **its own target "
    "included**.",
}
LEAKED = (
    "> **Warning.** This model was trained under a mask that shows each token its own target. Its "
    "training loss and its scores say how much of the answer it saw, not what it can do. It is "
    "published to show what such a training does; do not use or cite it as a language model."
)
ROWS = (
    "Rows with **train** or **eval** in the column `leaks` are no results of the model: it saw the "
    "tokens that it was to predict, in training or in scoring. They are here because they were "
    "measured, and they are in no machine-readable result of this repository."
)


def model_card(
    repository: str, checkpoint: Checkpoint, licence: Licence, own: TextTables, results: bool
) -> str:
    """The text of README.md.

    own: the tables of the checkpoint, by `own_tables`. results: whether the repository has
    evaluation results beside the card.
    """
    name = f"{checkpoint.recipe}, seed {checkpoint.seed}"
    parts = [
        f"---\n{_front_matter(checkpoint, licence)}\n---",
        f"# {repository.partition('/')[2]}",
        f"{_base(checkpoint)}, trained by recipe {name}, of the study `{checkpoint.home.name}`.",
        *([LEAKED] if _leaked(checkpoint) else []),
        f"## What was taken away\n\n{_taken_away(checkpoint)}",
        f"## How it was trained\n\n{_training(checkpoint)}",
        f"## What came back\n\n{_tables(checkpoint, own)}",
        f"## What the numbers are good for\n\n{_scope(own.rows, results)}",
        f"## How to load it\n\n{_loading(repository, checkpoint)}",
        f"## Where it comes from\n\n{_provenance(checkpoint, licence)}",
    ]
    return "\n\n".join(parts) + "\n"


def own_tables(checkpoint: Checkpoint, seed: str, task: str = "each") -> TextTables:
    """The recovery tables of the recipe of a checkpoint, with those of what was lost.

    Rows that leak come last, and are marked. Raises NotPublishable if the study has none.
    """
    file, recipe = checkpoint.home / "recovery.csv", checkpoint.recipe
    if not file.is_file():
        raise NotPublishable(f"{file} is missing: make it, so that the card says what came back")
    found = recovery_tables(file, seed, task)
    rows = found.rows[found.rows.recipe == recipe]
    if rows.empty:
        raise NotPublishable(f"{file} has no rows of {recipe}: make it again")
    tables = {
        title: cells[cells.recipe == recipe].drop(columns="recipe") if "recipe" in cells else cells
        for title, cells in found.tables.items()
    }
    return leaks_marked(TextTables(rows, tables, warnings_of(rows), found.legend))


def leaks_marked(found: TextTables) -> TextTables:
    """Recovery tables whose rows that leak come last, and are marked, for a page elsewhere."""
    tables = {}
    for title, cells in found.tables.items():
        ordered = pd.concat([cells[cells.leaks == "-"], cells[cells.leaks != "-"]])
        marked = ordered.leaks.map(lambda leak: leak if leak == "-" else f"**{leak}**")
        empty = [head for head in ("seeds",) if head in cells and not cells[head].any()]
        tables[title] = ordered.assign(leaks=marked).drop(columns=empty)
    legend = found.legend.replace("docs/statistics.md", "docs/statistics.md of `ablation`")
    return found._replace(tables=tables, legend=legend)


# ---- the parts of the card ----------------------------------------------------------------------


def _front_matter(checkpoint: Checkpoint, licence: Licence) -> str:
    from huggingface_hub import ModelCardData

    on_hub, mask = checkpoint.base_on_hub, checkpoint.train_mask
    records = _datasets(checkpoint)
    data = ModelCardData(
        license=licence.identifier,
        license_name=licence.name,
        license_link=licence.link,
        base_model=on_hub[0] if on_hub else None,
        datasets=records or None,
        library_name="transformers" if _loads_anywhere(checkpoint) else "ablation",
        pipeline_tag="text-generation",
        tags=["ablation", *([f"ablation-{mask}"] if mask else []), *_leak_tag(checkpoint)],
    )
    if on_hub:
        data["base_model_relation"] = "finetune"
    return data.to_yaml(line_break="\n")


def _datasets(checkpoint: Checkpoint) -> list[str]:
    """The data sets of the hub that the finetuning records were made from."""
    path = checkpoint.home / "base" / "instructions" / "manifest.json"
    if not path.is_file():
        return []
    pins = load_manifest(path)["fingerprint"]["config"].get("pins") or {}
    return sorted(name for name, commit in pins.items() if commit)


def _leaked(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.manifest.get("train_leaks", True))


def _leak_tag(checkpoint: Checkpoint) -> list[str]:
    return ["leaky-training"] if _leaked(checkpoint) else []


def _base(checkpoint: Checkpoint) -> str:
    if on_hub := checkpoint.base_on_hub:
        return f"[{on_hub[0]}](https://huggingface.co/{on_hub[0]}/tree/{on_hub[1]})"
    made = (checkpoint.base.get("fingerprint") or {}).get("config", {}).get("base")
    known = {
        "shipped": "The small Ministral-3 of the micro-world that `ablation` ships",
        "pretrain": "A small Ministral-3 that the study pretrained on its micro-world",
        "random": "A decoder with random weights",
    }
    return known.get(str(made), "A base from a folder (its hashes are below)")


def _taken_away(checkpoint: Checkpoint) -> str:
    lines = []
    if settings := checkpoint.manifest.get("trained_under"):
        about = (read_settings(settings).__doc__ or "").splitlines()[0]
        values = {k: v for k, v in settings.items() if k not in ("kind", "implementation")}
        values = {k: v for k, v in values.items() if v is not None}
        said = ", ".join(f"`{key}: {value}`" for key, value in values.items())
        lines.append(f"`{settings['kind']}`: {about} {said}".strip())
    elif mask := checkpoint.train_mask:
        lines.append(f"`{mask}`: {MASKS.get(mask, 'see the documentation of `ablation`.')}")
    else:
        lines.append("Its manifest names no mask and no intervention.")
    if note := _note(checkpoint.recipe):
        lines.append(f"Recipe {checkpoint.recipe}: {note}.")
    return "\n\n".join(lines)


def _note(name: str) -> str:
    recipe = recipe_of(name)
    return RECIPE[recipe].note if recipe else ""


def _training(checkpoint: Checkpoint) -> str:
    manifest, config = checkpoint.manifest, checkpoint.config
    facts = {"seed": checkpoint.seed, "steps": manifest.get("steps")}
    facts |= {key: value for key, value in (config.get("hardware") or {}).items() if key == "dtype"}
    facts |= _flat(config.get("recipe") or {})
    return _table(("setting", "value"), facts)


def _table(heads: tuple[str, str], facts: Mapping[str, Any]) -> str:
    """The facts that are known, in Markdown; names and values may come from files of others."""
    known = ((key, value) for key, value in facts.items() if value is not None)
    lines = [f"| {markdown_cell(key)} | {markdown_cell(value)} |" for key, value in known]
    return "\n".join([f"| {heads[0]} | {heads[1]} |", "|---|---|", *lines])


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _tables(checkpoint: Checkpoint, own: TextTables) -> str:
    seeds = own_tables(checkpoint, ALL_SEEDS, MACRO)
    back = {title: cells for title, cells in seeds.tables.items() if "what came back" in title}
    over = markdown(TextTables(seeds.rows, back, [], "")).strip()
    return "\n\n".join([ROWS, markdown(own).strip(), "Over all seeds of the recipe:", over])


def _scope(rows: pd.DataFrame, results: bool) -> str:
    items = rows[~rows.task.str.contains(MACRO)].drop_duplicates("task")
    held_out = sorted(items.task[items.exposure == "held_out"])
    tasks = ", ".join(f"{row.task} ({row.n:.0f} items)" for row in items.itertuples())
    lines = [
        f"- They are scores of multiple-choice items: {tasks}.",
        "- They are of one training. The table over all seeds says how far trainings differ.",
        "- A score under a mask holds under this mask alone. Under `causal` the model is what "
        "transformers computes; under any other it needs the code below.",
        "- Recovered accuracy is recovered on these tasks; it is no statement about other uses.",
    ]
    if held_out:
        lines.append(f"- The finetuning records hold no task of this form: {', '.join(held_out)}.")
    if results:
        lines.append(
            "- `.eval_results/` has the scores that do not leak and follow lm-eval's protocol."
        )
    else:
        lines.append(
            "- There are no machine-readable results: every score leaks, or its task has no data "
            "set on the hub."
        )
    return "\n".join(lines)


def _loading(repository: str, checkpoint: Checkpoint) -> str:
    plain = (
        "As an ordinary causal model:\n\n```python\nfrom transformers import AutoModelForCausalLM, "
        f'AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained("{repository}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")\n```'
    )
    under = checkpoint.manifest.get("trained_under")
    mask, anywhere = checkpoint.train_mask or CAUSAL, _loads_anywhere(checkpoint)
    if anywhere and under:
        return (
            f"Its weights and config.json hold the intervention `{under['kind']}`, so every "
            "library loads the model without what was taken away. Training it further with other "
            f"software may bring it back.\n\n{plain}"
        )
    if anywhere and mask == CAUSAL:
        return plain
    what = f"the intervention `{under['kind']}`" if under else f"the mask `{mask}`"
    if checkpoint.manifest.get("format") == RAW_FORMAT:
        why = "transformers alone cannot read its file of weights."
    elif under:
        why = "transformers alone does not bring it into force, and computes another model."
    else:
        why = "transformers alone computes the causal mask, under which it was not trained."
    code = f"""\
from huggingface_hub import snapshot_download
from lm_eval.api.instance import Instance

from ablation.interventions.loading import load
from ablation.scoring.masked_lm import MaskedLM

model, tokenizer = load(snapshot_download("{repository}"))
lm = MaskedLM(model, tokenizer, mask="{CAUSAL if under else mask}")
request = Instance("generate_until", {{}}, ("The hawk", {{"until": [], "max_gen_toks": 16}}), 0)
print(lm.generate_until([request], disable_tqdm=True)[0])"""
    ours = (
        f"Under {what}, with the package `ablation`; {why} `lm` is a model of lm-eval, which "
        "`lm_eval.simple_evaluate(model=lm, tasks=[...])` scores under the mask."
    )
    parts = [f"{ours}\n\n```python\n{code}\n```"]
    if anywhere:
        parts.append(plain)
    return "\n\n".join(parts)


def _loads_anywhere(checkpoint: Checkpoint) -> bool:
    """Whether `from_pretrained` of transformers gives the model that was trained here.

    A mask is no part of a model, so whole weights of a training under one load anywhere.
    """
    under = checkpoint.manifest.get("trained_under")
    held = not under or read_settings(under).in_weights
    return held and checkpoint.manifest.get("format") != RAW_FORMAT


def _provenance(checkpoint: Checkpoint, licence: Licence) -> str:
    run, fingerprint = checkpoint.run, checkpoint.manifest["fingerprint"]
    commit = run.get("git_hash")
    changed = " (with uncommitted changes)" if run.get("git_dirty") else ""
    gpus = ", ".join(gpu["name"] for gpu in run.get("gpus", ()))
    recovery = load_manifest(checkpoint.home / "recovery.manifest.json")
    facts = {
        "manifest (`ablation/manifest.json`)": f"`{checkpoint.manifest['sha256']}`",
        "its fingerprint": f"`{fingerprint['hash']}`",
        "code of the training": f"`{fingerprint['code']}`",
        "commit": f"`{commit}`{changed}" if commit else "unknown",
        "manifest of the base": f"`{checkpoint.base.get('sha256', 'unknown')}`",
        "manifest of the table": f"`{recovery['sha256']}`",
        "packages": ", ".join(f"{k} {v}" for k, v in sorted(fingerprint["packages"].items())),
        "machine": gpus or run.get("processor", "unknown"),
        "licence": f"{licence.identifier}, {licence.source}",
        "seal": checkpoint.verified.seal.partition(" (`")[0],
    }
    pins = pins_of(checkpoint.home).items()
    facts |= {f"data set {name}": f"`{commit}`" for name, commit in pins}
    if checkpoint.verified.unchecked:
        facts["unchecked"] = (
            f"code of {', '.join(checkpoint.verified.unchecked)} was accepted without making its "
            "results again"
        )
    for name, entry in checkpoint.base.get("outputs", {}).items():
        if Path(name).suffix in WEIGHT_SUFFIXES:
            facts[f"`{Path(name).name}` of the base"] = f"`{entry['sha256']}`"
    hashes = {f"`{n}`": f"`{checkpoint.entry_of(n)['sha256']}`" for n in checkpoint.files}
    return "\n\n".join(
        [
            "Every file of the study that is here was as it was made when this card was written "
            "(`ablation verify`).",
            _table(("what", "which"), facts),
            _table(("file", "SHA-256"), hashes),
        ]
    )
