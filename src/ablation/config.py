"""Typed configuration, checked once, at load: every fault in one message, by key and file.

`ablation.layers` reads and merges the files, `ablation.schema` says what they may hold; here both
meet, with what only the disk can tell. No torch, no lm_eval: every job loads it again.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ablation.bridge import named as bridged
from ablation.checkpoint_files import checkpoint_fault
from ablation.layers import ConfigError, Key, Layer, dotted, merge, resolve, scalar
from ablation.names import MASKS
from ablation.recipes import MASK_OF, RECIPES, recipe_of
from ablation.schema import SHARDED_OPTIMIZERS, Study
from ablation.sources import data_sets
from ablation.tasks import file_faults, lm_eval_names, own_tasks, unscorable

SHIPPED = Path("resources/micro")


class Fault(NamedTuple):
    path: Key
    text: str  # what was found, what was expected, what to do


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
    faults += [*_task_faults(values, Path(folder)), *_base_faults(values)]
    faults += [Fault(*f) for f in bridged.faults(_at(values, "bridge"), _pins(values))]
    faults += _unpinned(values) if pinned else ()
    faults += [*_other_masks(values), *_too_few_examples(values), *_unshared(values)]
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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean `{near[0]}`?" if near else ""


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


# ---- what only the disk can tell ---------------------------------------------------------------


def _task_faults(values: Mapping, folder: Path) -> Iterator[Fault]:
    path = ("evaluation", "tasks")
    yield from (Fault(path, fault) for fault in file_faults(folder))
    tasks, known = _at(values, *path), [*own_tasks(folder), *lm_eval_names(folder)]
    for number, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if isinstance(task, str) and task not in known:
            hint = did_you_mean(task, known)
            text = f"{task!r} is neither in {folder}/tasks nor one of lm-eval's own{hint}"
            yield Fault((*path, number), text)
        elif isinstance(task, str) and (why := unscorable(task, folder)):
            yield Fault(
                (*path, number),
                f"{task!r} cannot be tabulated item by item: multiple_choice was expected, {why} "
                "found; take another task",
            )


def _at(values: Any, *path: str) -> Any:
    """What stands at `path`, None where nothing does."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _base_faults(values: Mapping) -> Iterator[Fault]:
    base = values.get("base")
    if not isinstance(base, str) or base in ("", "pretrain", "random", *_pins(values)):
        return
    folder = SHIPPED / "base" if base == "shipped" else Path(base)
    file = folder / "config.json"
    if not file.is_file():
        found = "holds no config.json" if folder.is_dir() else "is no folder"
        yield Fault(
            ("base",),
            f"{folder} {found}; `shipped`, `pretrain`, `random`, the folder of a Hugging Face "
            "checkpoint or a hub model that is named in `pins` was expected"
            f"{did_you_mean(base, ('shipped', 'pretrain', 'random'))}",
        )
        return
    if base == "shipped":
        yield from _other_world(values.get("world"))
    broken = checkpoint_fault(folder)
    if broken:
        yield Fault(("base",), broken)
        return
    model = json.loads(file.read_text("utf-8"))
    inner = model.get("text_config")
    positions = (model | inner if isinstance(inner, dict) else model).get("max_position_embeddings")
    if isinstance(positions, int):
        yield from _too_long(values, positions)


def repositories(values: Mapping) -> dict[str, str]:
    """{hub repository: `model` or `dataset`} of all that a study with these values reads there."""
    base, tasks = values.get("base"), _at(values, "evaluation", "tasks")
    found = {base: "model"} if base in _pins(values) else {}
    found |= bridged.repositories(_at(values, "bridge"), _pins(values))
    if base == "random":
        return found  # its texts are generated
    tasks = [t for t in tasks if isinstance(t, str)] if isinstance(tasks, list) else []
    learned = _at(values, "instructions", "data")
    named = isinstance(learned, str) and "/" in learned
    data = [*data_sets(tasks), *([learned] if named else [])]
    return found | dict.fromkeys(data, "dataset")


def _pins(values: Mapping) -> Mapping:
    pins = _at(values, "pins")
    return pins if isinstance(pins, dict) else {}


def is_commit(pin: Any) -> bool:
    return isinstance(pin, str) and re.fullmatch(r"[0-9a-f]{40}", pin) is not None


def unpinned(study: Study) -> list[str]:
    """The hub repositories that the study reads and that have no commit yet."""
    return [str(fault.path[-1]) for fault in _unpinned(study.model_dump())]


def _unpinned(values: Mapping) -> Iterator[Fault]:
    pins = _pins(values)
    for repository, kind in repositories(values).items():
        pin = pins.get(repository)
        if is_commit(pin) or not isinstance(pin, str | None):
            continue
        found = f"`{pin}` found" if repository in pins and pin else "not pinned"
        yield Fault(
            ("pins", repository),
            f"{found}, so the {kind} may change on the hub: `ablation pin FILE` asks for its "
            "commit (40 hexadecimal digits) and writes it there",
        )


def _other_world(world: Any) -> Iterator[Fault]:
    """The shipped base knows the facts of one world, and has read the scenes of one split."""
    manifest = json.loads((SHIPPED / "manifest.json").read_text("utf-8"))
    made = manifest["stamp"]["config"]["world"]
    for name in ("seed", "eval_percent", "dev_percent"):
        found = world.get(name) if isinstance(world, dict) else None
        if isinstance(found, int) and found != made[name]:
            yield Fault(
                ("world", name),
                f"{found} found, but the shipped base was made for {made[name]} and knows no other "
                "world: say `base: pretrain`",
            )


def _trainings(values: Mapping, *keys: str) -> dict[Key, tuple]:
    """{block: its values of `keys`} of `finetune`, and of each recipe where it has others."""
    blocks = {("finetune",): values.get("finetune")}
    recipes = values.get("recipes")
    if isinstance(recipes, dict):
        blocks |= {("recipes", name): recipe for name, recipe in recipes.items()}
    found = {path: tuple(_at(block, k) for k in keys) for path, block in blocks.items()}
    return {p: v for p, v in found.items() if p == ("finetune",) or v != found[("finetune",)]}


def _too_long(values: Mapping, positions: int) -> Iterator[Fault]:
    for path, (length,) in _trainings(values, "max_seq_len").items():
        if isinstance(length, int) and length > positions:
            yield Fault(
                (*path, "max_seq_len"),
                f"{length} found, but the base reads at most {positions} tokens",
            )


def _too_few_examples(values: Mapping) -> Iterator[Fault]:
    source = ("instructions", "count")
    if _at(values, "instructions") is None:
        source = ("world", "finetuning", "count")
    records = _at(values, *source)
    blocks = _trainings(values, "batch_examples", "heldout_fraction")
    for path, (batch, share) in blocks.items():
        if not (isinstance(records, int) and isinstance(batch, int) and isinstance(share, float)):
            continue
        left = records - max(1, round(share * records))
        if 0 < share < 1 and batch > left:
            yield Fault(
                (*path, "batch_examples"),
                f"{batch} found, but of {records} records ({dotted(source)}) only {left} are "
                "not held out: no step would be whole; give fewer, or more records",
            )


def _unshared(values: Mapping) -> Iterator[Fault]:
    """What several GPUs cannot share out: a batch, or weights in bfloat16."""
    gpus = _at(values, "hardware", "gpu")
    if not isinstance(gpus, int) or gpus < 2:
        return
    keys = ("batch_examples", "micro_batch_examples", "optimizer")
    for path, (batch, micro, optimizer) in _trainings(values, *keys).items():
        whole = isinstance(batch, int) and isinstance(micro, int) and micro > 0
        if whole and batch % micro == 0 and batch % (micro * gpus):
            fitting = [n for n in range(1, micro) if batch % (n * gpus) == 0]
            remedy = f"micro_batch_examples {fitting[-1]}" if fitting else f"a multiple of {gpus}"
            yield Fault(
                (*path, "batch_examples"),
                f"{batch} found, which {gpus} GPUs (hardware.gpu) cannot share in micro-batches of "
                f"{micro}: give {remedy}, or other GPUs",
            )
        if isinstance(optimizer, str) and optimizer not in SHARDED_OPTIMIZERS:
            yield Fault(
                (*path, "optimizer"),
                f"{optimizer} found, but {gpus} GPUs (hardware.gpu) share weights out in float32: "
                f"{', '.join(SHARDED_OPTIMIZERS)} was expected, or one GPU",
            )


def _other_masks(values: Mapping) -> Iterator[Fault]:
    """A recipe's name says its mask, wherever the name stands in a table."""
    recipes = values.get("recipes")
    for name, recipe in recipes.items() if isinstance(recipes, dict) else ():
        mask, expected = _at(recipe, "train_mask"), MASK_OF.get(recipe_of(str(name)) or "")
        if mask in MASKS and expected and mask != expected:
            yield Fault(
                ("recipes", name, "train_mask"),
                f"{mask} found, but {name} is the recipe that trains under {expected}, and its "
                "rows would not say so: take the recipe of that mask",
            )


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
