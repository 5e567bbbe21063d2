"""Loads a study's configuration and reports all its problems in one message, by key and file.

`ablation.config.merging` reads and merges the files, `ablation.config.study` defines the keys and
`ablation.config.checks` the rules between them. Every job loads the configuration, so this module
imports neither torch nor lm_eval.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablation.config.checks import find_problems
from ablation.config.interventions import KINDS, UNUSABLE
from ablation.config.merging import (
    ConfigError,
    ConfigProblem,
    Key,
    LocatedValues,
    did_you_mean,
    dotted,
    merge,
    parse_scalar,
    resolve,
)
from ablation.config.study import Study
from ablation.vocabulary.masks import ABLATED_MASKS, CAUSAL, LEAKING_MASKS, MASKS
from ablation.vocabulary.recipes import RECIPE, RECIPES, recipe_of


def load_study(
    overrides: Mapping,
    folder: str | Path = "config",
    files: Iterable[str | Path] = (),
    pinned: bool = True,
    local: bool = True,
) -> Study:
    """The study that `overrides` (Snakemake's `config`, or an empty mapping) describe.

    `folder` holds default.yaml, further files to extend, and tasks/. `files` are those given to
    --configfile: their content is part of `overrides`, and they are read to find the place of each
    value. `pinned=False` accepts hub repositories without a commit (`checks.unpinned`), which is
    enough to list the jobs of a study, but not to run them. `local=False` leaves out the checks of
    the user's base and data: a rented machine has only those that its job reads. Raises
    ConfigError with one line for each problem: the key, its file and line, what was found, and what
    was expected.
    """
    files = list(files)
    if len(files) > 1:  # Snakemake would merge their recipes
        raise ConfigError(
            f"one file of a study was expected, not {', '.join(map(str, files))}: let one "
            "of them extend the other (`extends: name.yaml`)"
        )
    config = resolve(overrides, Path(folder), files)
    values = _with_complete_recipes(config.values, "finetune")
    if isinstance(values.get("bridge"), dict):
        values |= {"bridge": _with_complete_recipes(values["bridge"], "training")}
    study: Study | None = None
    errors: Sequence[Any] = ()
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
    problems = [ConfigProblem(_path(e), _text(e)) for e in errors if not _only_inherited(e, errors)]
    problems += find_problems(values, Path(folder), pinned, local)
    lines = config.problems + [f"{dotted(p)} ({_place(p, config)}): {text}" for p, text in problems]
    if lines or study is None:
        raise ConfigError(
            "the configuration cannot be used (config/README.md explains every key):\n  "
            + "\n  ".join(lines)
        )
    return study


def _with_complete_recipes(values: dict, common: str) -> dict:
    """`values` with complete recipes: the `common` block, overridden by the recipe's own keys.

    A variant also takes over the keys of its recipe, if the study has that one.
    """
    shared, recipes = values.get(common), values.get("recipes")
    if not (isinstance(shared, dict) and isinstance(recipes, dict)):
        return values

    def complete(name: str, own: Any) -> Any:
        if not isinstance(own, dict):
            return own
        after = recipes.get(recipe_of(name) or "")
        below = merge(shared, after) if isinstance(after, dict) else shared
        if {"train_mask", "train_under"} & own.keys():  # one replaces the other
            below = {k: v for k, v in below.items() if k not in ("train_mask", "train_under")}
        return _with_mask(merge(below, own))

    return values | {"recipes": {name: complete(name, own) for name, own in recipes.items()}}


def _with_mask(recipe: dict) -> dict:
    """`recipe` with the `train_mask` that its `train_under` implies."""
    under = recipe.get("train_under")
    if not isinstance(under, str) or "train_mask" in recipe:
        return recipe
    if under in MASKS:
        return {k: v for k, v in recipe.items() if k != "train_under"} | {"train_mask": under}
    return recipe | {"train_mask": CAUSAL}


def _path(error: Mapping) -> Key:
    path = error["loc"]
    if path[0] == "interventions":  # pydantic names the kind after the intervention
        path = (*path[:2], *path[3:])
    return tuple(k for k in path if k != "[key]")  # it marks an invalid key by one more element


def _only_inherited(error: Mapping, errors: Iterable[Mapping]) -> bool:
    """Whether an error of a recipe is already reported for the common block."""
    common = ("bridge", "training") if error["loc"][0] == "bridge" else ("finetune",)
    own = (*common[:-1], "recipes")
    if error["loc"][: len(own)] != own:
        return False
    n = len(common)
    reported = {(e["loc"][n:], e["msg"]) for e in errors if e["loc"][:n] == common}
    return (error["loc"][n + 1 :], error["msg"]) in reported or any(
        not path for path, _ in reported
    )


def _place(path: Key, config: LocatedValues) -> str:
    """The place of the value at `path`, or of the block that it is missing from."""
    paths = [path[:n] for n in range(len(path), -1, -1)]
    if path[0] == "recipes" and len(path) > 2:  # inherited, unless the recipe has the key itself
        paths.insert(1, ("finetune", *path[2:]))
    if path[:2] == ("bridge", "recipes") and len(path) > 3:
        paths.insert(1, ("bridge", "training", *path[3:]))
    return next(config.places[p] for p in paths if p in config.places and _exists(config.values, p))


def _exists(values: Any, path: Key) -> bool:
    """Whether the merged values still have a value at `path`."""
    try:
        for key in path:
            values = values[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True


# ---- errors of types and values ----------------------------------------------------------------


def _text(error: Mapping[str, Any]) -> str:
    """The text of a ConfigProblem for an error of pydantic."""
    kind, path, found = error["type"], error["loc"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown key{_about_masks(path) or _nearest_key(path)}"
    if kind == "missing":
        return f"missing{_about_recipe(path)}"
    if kind in ("model_type", "dict_type"):
        expected = "a mapping (`key: value` lines) was expected"
    elif kind == "string_pattern_mismatch" and path[0] == "recipes":
        names = ", ".join(map(repr, RECIPES))
        expected = f"{names} or a variant of one (`3B-lr1e-4`) was expected"
    elif kind == "string_pattern_mismatch" and path == ("study",):
        name = re.sub(r"[^a-z0-9_-]+", "_", found.lower()).strip("_-")
        expected = "a folder's name of a-z, 0-9, _ and - was expected"
        expected += f", such as `{name}`" if name else ""
    elif kind == "too_short":
        expected = "a list or block with at least one entry was expected"
        expected += ", such as `seeds: [1]`" if path == ("seeds",) else ""
    elif kind == "string_pattern_mismatch" and path[0] == "interventions":
        expected = "a name of small letters and digits was expected"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        named = found.get("kind") if isinstance(found, dict) else None
        if named == "mask":
            return (
                f"kind 'mask' found, but every study has the masks {', '.join(MASKS)} without "
                f"naming them here: give a recipe `train_under: {ABLATED_MASKS[0]}`"
            )
        if named in UNUSABLE:
            return UNUSABLE[named]
        hint = did_you_mean(str(named), KINDS) if named else ""
        return f"kind {named!r} found, one of {', '.join(KINDS)} was expected{hint}"
    elif kind == "value_error":
        expected = str(error["ctx"]["error"])
    else:
        expected = error["msg"].replace("Input should", "should")
    hint = ""
    if kind == "literal_error" and isinstance(found, str):
        hint = did_you_mean(found, re.findall(r"'([^']+)'", error["ctx"]["expected"]))
        if any(f"`{mask}`" in hint for mask in LEAKING_MASKS):
            hint = ""  # it is never what a slip of the hand meant
    elif kind in ("int_type", "float_type", "bool_type") and _quoted(found):
        hint = ": write it without quotes"
    elif found is None:
        hint = ": leave the key out to keep the value of the file extended"
    return f"{_short(found)} found, {expected}{hint}"


def _about_masks(path: Key) -> str:
    """Where masks are chosen, for the keys under which they are often looked for."""
    if path[-1] not in ("mask", "masks"):
        return ""
    return (
        f": every study scores under all masks ({', '.join(MASKS)}), and a recipe trains under "
        "its `train_mask`; leave this key out"
    )


def _about_recipe(path: Key) -> str:
    """Why a recipe has no mask: a variant takes its mask over from a recipe of the study."""
    name = str(path[1]) if path[0] == "recipes" and path[-1] == "train_mask" else ""
    whole = recipe_of(name)
    if whole is None:
        return ""
    line = f"{whole}: {{train_mask: {RECIPE[whole].train_mask}}}"
    if whole == name:
        return f": add `train_mask: {RECIPE[whole].train_mask}`"
    return f": `recipes` has no {whole}, whose keys its variant {name} takes over: add `{line}`"


def _quoted(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(parse_scalar(value), str)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _nearest_key(path: Key) -> str:
    """A hint at a similar key of the same block, or else of another block."""
    *block, name = map(str, path)
    known = [tuple(k) for k, _ in schema_keys()]
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
    """The JSON schema of a config file. No key is required, since a file may extend another."""

    def optional(part: Any) -> Any:
        if isinstance(part, dict):
            return {k: optional(v) for k, v in part.items() if k not in ("required", "title")}
        return [optional(v) for v in part] if isinstance(part, list) else part

    whole = optional(Study.model_json_schema())
    whole["properties"]["recipes"]["additionalProperties"] = False  # a name has a pattern
    extends = {
        "type": "string",
        "description": "File whose values are taken for all keys that this file leaves out.",
    }
    whole["properties"] = {"extends": extends} | whole["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | whole


def schema_keys(whole: Mapping | None = None) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(path, part of the schema) for every key, a block before its keys; `<name>` is any name.

    References are resolved; the description beside a reference replaces that of its target.
    """
    whole = whole or schema()

    def walk(part: dict, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict]]:
        for choice in (part, *part.get("anyOf", ())):
            if "$ref" in choice:
                part = whole["$defs"][choice["$ref"].rpartition("/")[2]] | part
        if path:
            yield path, part
        kinds = [whole["$defs"][c["$ref"].rpartition("/")[2]] for c in part.get("oneOf", ())]
        for one in (part, *kinds):
            for name, inner in one.get("properties", {}).items():
                yield from walk(inner, (*path, name))
        named = [part.get("additionalProperties"), *part.get("patternProperties", {}).values()]
        for inner in (n for n in named if isinstance(n, dict)):
            yield from walk(inner, (*path, "<name>"))

    yield from walk(dict(whole), ())
