"""Interventions that a study cannot have: parts that its base lacks, and impossible scores.

As in `ablation.config.checks`, values may have any type here, and nothing imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablation.config.interventions import UNUSABLE, InterventionSettings, read_settings
from ablation.config.merging import ConfigProblem, did_you_mean
from ablation.vocabulary.interventions import RESERVED
from ablation.vocabulary.masks import CAUSAL, MASKS

SHIPPED = Path("resources/micro/base")


def find_problems(values: Mapping) -> Iterator[ConfigProblem]:
    """The problems of a study's interventions, and of the recipes that name them."""
    settings = _settings(values)
    model = base_config(values) if settings else {}
    for name, one in settings.items():
        if name in (*MASKS, *RESERVED):
            text = f"{name!r} is a word of tables and folders already: give it another name"
            yield ConfigProblem(("interventions", name), text)
        if one.kind in UNUSABLE:
            yield ConfigProblem(("interventions", name), UNUSABLE[one.kind])
        if problem := one.problem(model):
            yield ConfigProblem(("interventions", name, problem[0]), problem[1])
    recipes = values.get("recipes")
    for name, recipe in recipes.items() if isinstance(recipes, dict) else ():
        if isinstance(recipe, dict):
            yield from _recipe_problems(str(name), recipe, settings, values)


def _settings(values: Mapping) -> dict[str, InterventionSettings]:
    """Those of the interventions whose own values are right."""
    found, blocks = {}, values.get("interventions")
    for name, block in blocks.items() if isinstance(blocks, dict) else ():
        try:
            found[str(name)] = read_settings(block if isinstance(block, dict) else {})
        except ValidationError:
            continue  # reported by pydantic
    return found


def base_config(values: Mapping) -> Mapping[str, Any]:
    """What is known of the base's config.json before anything runs, perhaps nothing.

    That of a hub model is known if the hub's cache on this machine has it at the pinned commit.
    """
    base = values.get("base")
    shape: Any = None
    if base == "random":
        shape = values.get("random")
    elif base == "pretrain":
        shape = values
        for key in ("world", "pretrain", "model"):
            shape = shape.get(key) if isinstance(shape, dict) else None
    if isinstance(shape, dict):
        names = {"layers": "num_hidden_layers", "heads": "num_attention_heads"}
        names |= {"width": "hidden_size", "feed_forward": "intermediate_size"}
        return {theirs: shape[ours] for ours, theirs in names.items() if ours in shape}
    pins = values.get("pins")
    if isinstance(pins, dict) and isinstance(base, str) and base in pins:
        file = _cached_config(base, pins[base])
    else:
        file = (SHIPPED if base == "shipped" else Path(str(base))) / "config.json"
    if file is None:
        return {}
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # reported with the base
    return config if isinstance(config, dict) else {}


def _cached_config(repository: str, commit: Any) -> Path | None:
    """The config.json of a hub model in the hub's cache on this machine; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache  # slow, and only few studies need it

    if not isinstance(commit, str):
        return None
    found = try_to_load_from_cache(repository, "config.json", revision=commit)
    return Path(found) if isinstance(found, str) else None


def _recipe_problems(
    name: str, recipe: Mapping, settings: Mapping[str, InterventionSettings], values: Mapping
) -> Iterator[ConfigProblem]:
    under, path = recipe.get("train_under"), ("recipes", name, "train_under")
    named = values.get("interventions")
    known = [*MASKS, *(named if isinstance(named, dict) else ())]
    own = settings.get(under) if isinstance(under, str) else None
    if isinstance(under, str):
        if under not in known:
            text = f"{under!r} is neither a mask nor one of `interventions`"
            yield ConfigProblem(path, text + did_you_mean(under, known))
        elif recipe.get("train_mask") != CAUSAL:
            text = (
                f"{under} found beside train_mask {recipe.get('train_mask')}: give one of the two"
            )
            yield ConfigProblem(path, text)
        elif under not in name.split("-")[1:] or name.startswith("3A"):
            text = (
                f"{under} found, but the name {name} does not say so, and its rows in tables would "
                f"be misleading: call the recipe 3B-{under}"
            )
            yield ConfigProblem(path, text)
        yield from _unshared(path, under, own, values)
    others = [word for word in name.split("-")[1:] if word in settings and word != under]
    if others:
        text = (
            f"its name says {others[0]}, but it trains under {under or recipe.get('train_mask')}, "
            f"and its rows in tables would be misleading: give it `train_under: {others[0]}`, or "
            "call it something else"
        )
        yield ConfigProblem(("recipes", name), text)
    if recipe.get("adapter") is not None:
        path = ("recipes", name, "adapter")
        yield from _adapter_problems(path, recipe["adapter"], under, own, _gpus(values))
    asked = recipe.get("score_under")
    for number, condition in enumerate(asked if isinstance(asked, list) else ()):
        if why := _unscorable(condition, under, own, known):
            yield ConfigProblem(("recipes", name, "score_under", number), why)


def _unshared(
    path: tuple, under: str, own: InterventionSettings | None, values: Mapping
) -> Iterator[ConfigProblem]:
    gpus = _gpus(values)
    if own and not own.shardable and gpus > 1:
        yield ConfigProblem(
            path,
            f"{under} ({own.kind}) found, but {gpus} GPUs (hardware.gpu) share the weights, of "
            "which it needs all: one GPU was expected",
        )


def _adapter_problems(
    path: tuple, adapter: Any, under: Any, own: InterventionSettings | None, gpus: int
) -> Iterator[ConfigProblem]:
    if find_spec("peft") is None:
        text = "an adapter found, but peft is not installed"
        yield ConfigProblem(path, f'{text}: pip install --editable ".[adapters]"')
    rounded = isinstance(adapter, dict) and adapter.get("base_bits") == 4
    if rounded and find_spec("bitsandbytes") is None:
        text = "found, but bitsandbytes is not installed: pip install bitsandbytes"
        yield ConfigProblem((*path, "base_bits"), text)
    if rounded and not gpus:
        text = "found, but a base of 4 bits needs a GPU, and hardware.gpu is 0: leave base_bits out"
        yield ConfigProblem((*path, "base_bits"), text)
    if rounded and own is not None:
        text = f"found beside train_under {under} ({own.kind}), which is seen in force in whole "
        yield ConfigProblem((*path, "base_bits"), f"{text}weights only: leave base_bits out")
    if gpus > 1:
        text = f"an adapter found, but {gpus} GPUs (hardware.gpu) share the weights: one GPU was"
        yield ConfigProblem(path, f"{text} expected")
    if own is not None and not own.mergeable:
        yield ConfigProblem(
            path,
            f"an adapter found beside train_under {under} ({own.kind}), which a merge of the "
            "adapter would undo in every matrix: leave the adapter out (`adapter: null`) to train "
            "all weights",
        )


def _gpus(values: Mapping) -> int:
    hardware = values.get("hardware")
    gpus = hardware.get("gpu") if isinstance(hardware, dict) else None
    return gpus if isinstance(gpus, int) else 0


def _unscorable(
    condition: Any, under: Any, own: InterventionSettings | None, known: list[str]
) -> str | None:
    """Why a checkpoint cannot be scored under a condition, or None."""
    if not isinstance(condition, str):
        return None
    if condition not in known:
        return f"{condition!r} is neither a mask nor one of `interventions`" + did_you_mean(
            condition, known
        )
    if own is None or condition == under:
        return None
    if condition == CAUSAL and own.liftable:
        return None
    if condition == CAUSAL:
        return (
            f"{condition} found, but {under} ({own.kind}) is gone for good from a model that was "
            "trained under it, so it has no score without: leave it out"
        )
    return (
        f"{condition} found, but the recipe trains under {under}, and a checkpoint is scored under "
        "one intervention at a time: leave it out"
    )
