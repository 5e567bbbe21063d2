"""Typed configuration, checked once, at load: every fault in one message, by key and file.

`ablation.layers` reads and merges the files, `ablation.schema` says what they may hold,
`ablation.faults` what else must hold; here all meet. No torch, no lm_eval: every job loads it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablation.faults import faults_of
from ablation.layers import (
    ConfigError,
    Fault,
    Key,
    Layer,
    did_you_mean,
    dotted,
    merge,
    resolve,
    scalar,
)
from ablation.recipes import RECIPES, recipe_of
from ablation.schema import Study


def load_study(
    overrides: Mapping,
    folder: str | Path = "config",
    files: Iterable[str | Path] = (),
    pinned: bool = True,
) -> Study:
    """The study that `overrides` (Snakemake's `config`, or nothing) describes.

    `folder` holds default.yaml, what a file may extend, and tasks/. `files` are those given to
    --configfile: `overrides` has their content, they tell where it stands. `pinned=False` lets
    hub repositories pass that have no commit yet (`unpinned`): enough to say what would run, not to
    run it. Raises ConfigError with one line per fault: the key, its file and line, what was found,
    what was expected.
    """
    files = list(files)
    if len(files) > 1:  # Snakemake would mix their recipes
        raise ConfigError(
            f"one file of a study was expected, not {', '.join(map(str, files))}: let one "
            "of them extend the other (`extends: name.yaml`)"
        )
    layer = resolve(overrides, Path(folder), files)
    values = _with_whole_recipes(layer.values, "finetune")
    if isinstance(values.get("bridge"), dict):
        values |= {"bridge": _with_whole_recipes(values["bridge"], "training")}
    study, errors = None, []
    try:
        study = Study.model_validate(values)
    except ValidationError as fault:
        errors = fault.errors()
    faults = [Fault(_path(e), _text(e)) for e in errors if not _only_inherited(e, errors)]
    faults += faults_of(values, Path(folder), pinned)
    lines = layer.faults + [f"{dotted(f.path)} ({_place(f.path, layer)}): {f.text}" for f in faults]
    if lines:
        raise ConfigError(
            "the configuration cannot be used (config/README.md explains every key):\n  "
            + "\n  ".join(lines)
        )
    return study


def _with_whole_recipes(values: dict, common: str) -> dict:
    """Every recipe with the `common` block under its own keys; a variant's recipe between."""
    shared, recipes = values.get(common), values.get("recipes")
    if not (isinstance(shared, dict) and isinstance(recipes, dict)):
        return values

    def whole(name: str, own: Any) -> Any:
        if not isinstance(own, dict):
            return own
        after = recipes.get(recipe_of(name) or "")
        below = merge(shared, after) if isinstance(after, dict) else shared
        return merge(below, own)

    return values | {"recipes": {name: whole(name, own) for name, own in recipes.items()}}


def _path(error: Mapping) -> Key:
    return tuple(k for k in error["loc"] if k != "[key]")  # a key at fault is marked by one more


def _only_inherited(error: Mapping, errors: Iterable[Mapping]) -> bool:
    """Whether a recipe's fault is one of the common block, told there."""
    common = ("bridge", "training") if error["loc"][0] == "bridge" else ("finetune",)
    own = (*common[:-1], "recipes")
    if error["loc"][: len(own)] != own:
        return False
    n = len(common)
    told = {(e["loc"][n:], e["msg"]) for e in errors if e["loc"][:n] == common}
    return (error["loc"][n + 1 :], error["msg"]) in told or any(not path for path, _ in told)


def _place(path: Key, layer: Layer) -> str:
    """Where the value at `path` stands, or else what it is missing from."""
    paths = [path[:n] for n in range(len(path), -1, -1)]
    if path[0] == "recipes" and len(path) > 2:  # inherited, unless the recipe says it itself
        paths.insert(1, ("finetune", *path[2:]))
    if path[:2] == ("bridge", "recipes") and len(path) > 3:
        paths.insert(1, ("bridge", "training", *path[3:]))
    return next(layer.places[p] for p in paths if p in layer.places and _stands(layer.values, p))


def _stands(values: Any, path: Key) -> bool:
    """Whether the merged values still have what some file had at `path`."""
    try:
        for key in path:
            values = values[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True


# ---- faults of types and values ----------------------------------------------------------------


def _text(error: Mapping[str, Any]) -> str:
    """What pydantic found, in our words."""
    kind, path, found = error["type"], error["loc"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown key{_nearest_key(path)}"
    if kind == "missing":
        return "missing"
    if kind in ("model_type", "dict_type"):
        expected = "a mapping (`key: value` lines) was expected"
    elif kind == "string_pattern_mismatch" and path[0] == "recipes":
        names = ", ".join(map(repr, RECIPES))
        expected = f"{names} or a variant of one (`3B-lr1e-4`) was expected"
    elif kind == "value_error":
        expected = str(error["ctx"]["error"])
    else:
        expected = error["msg"].replace("Input should", "should")
    hint = ""
    if kind == "literal_error" and isinstance(found, str):
        hint = did_you_mean(found, re.findall(r"'([^']+)'", error["ctx"]["expected"]))
    elif kind in ("int_type", "float_type", "bool_type") and _quoted(found):
        hint = ": write it without quotes"
    elif found is None:
        hint = ": leave the key out to keep the value of the file extended"
    return f"{_short(found)} found, {expected}{hint}"


def _quoted(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(scalar(value), str)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _nearest_key(path: Key) -> str:
    """The key that was probably meant: one of the same block, or one of that name elsewhere."""
    *block, name = map(str, path)
    known = [tuple(k) for k, _ in keys()]
    at = block.index("recipes") + 1 if "recipes" in block else len(block)
    inside = [*block[:at], *["<name>"] * bool(block[at:]), *block[at + 1 :]]
    siblings = [k[-1] for k in known if list(k[:-1]) == inside]
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return f", did you mean `{dotted([*block, *near])}`?"
    near = difflib.get_close_matches(name, {k[-1] for k in known}, n=1, cutoff=0.75)
    there = [dotted(k) for k in known if near and k[-1] == near[0]]
    return f", did you mean `{there[0]}`?" if there else ""


# ---- the schema as data ------------------------------------------------------------------------


def schema() -> dict:
    """The JSON schema of a config file: nothing is required, since a file may extend another."""

    def optional(part: Any) -> Any:
        if isinstance(part, dict):
            return {k: optional(v) for k, v in part.items() if k not in ("required", "title")}
        return [optional(v) for v in part] if isinstance(part, list) else part

    whole = optional(Study.model_json_schema())
    whole["properties"]["recipes"]["additionalProperties"] = False  # a name has a pattern
    extends = {"type": "string", "description": "the file whose values hold where this is silent"}
    whole["properties"] = {"extends": extends} | whole["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | whole


def keys(whole: Mapping | None = None) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(path, its part of the schema) of every key, blocks before their own; `<name>` is any name.

    A reference is resolved; what stands beside it (the meaning) is laid over.
    """
    whole = whole or schema()

    def walk(part: dict, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict]]:
        for choice in (part, *part.get("anyOf", ())):
            if "$ref" in choice:
                part = whole["$defs"][choice["$ref"].rpartition("/")[2]] | part
        if path:
            yield path, part
        for name, inner in part.get("properties", {}).items():
            yield from walk(inner, (*path, name))
        named = [part.get("additionalProperties"), *part.get("patternProperties", {}).values()]
        for inner in (n for n in named if isinstance(n, dict)):
            yield from walk(inner, (*path, "<name>"))

    yield from walk(whole, ())
