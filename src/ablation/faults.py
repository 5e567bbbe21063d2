"""What is wrong with a study's values beyond their types: what only the disk and other keys tell.

Values may be of any type here: what the schema refuses is told by `ablation.config`, with these
faults in the same message. No torch, no lm_eval: every job reads this again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablation.bridge import faults as bridge
from ablation.checkpoint_files import checkpoint_fault
from ablation.layers import Fault, Key, did_you_mean, dotted
from ablation.names import MASKS
from ablation.recipes import MASK_OF, recipe_of
from ablation.schema import SHARDED_OPTIMIZERS, Study
from ablation.sources import data_sets
from ablation.tasks import file_faults, lm_eval_names, own_tasks, unscorable

SHIPPED = Path("resources/micro")


def faults_of(values: Mapping, folder: Path, pinned: bool) -> Iterator[Fault]:
    """Those of a study with these `values`; `folder` holds tasks/, `pinned` asks for every pin."""
    yield from _task_faults(values, folder)
    yield from _base_faults(values)
    yield from _unpinned(values) if pinned else ()
    yield from _other_masks(values)
    yield from _too_few_examples(values)
    yield from _unshared(values)
    yield from bridge.faults_of(values)


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
    found |= bridge.repositories(_at(values, "bridge"), _pins(values))
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
    file = SHIPPED / "manifest.json"
    try:
        made = json.loads(file.read_text("utf-8"))["stamp"]["config"]["world"]
        made = {name: made[name] for name in ("seed", "eval_percent", "dev_percent")}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        yield Fault(
            ("base",),
            f"{file} does not say for which world the shipped base was made "
            f"({type(fault).__name__}: {fault}): fetch it again",
        )
        return
    for name in made:
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
