"""Problems of a study's values that involve several keys, or files on disk.

Values may have any type here, because these problems and those that pydantic finds are reported in
one message. Every job loads this module, so it imports neither torch nor lm_eval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ablation.config import bridge_checks as bridge
from ablation.config import intervention_checks as interventions
from ablation.config.architectures import positions, refusal
from ablation.config.checkpoint_files import chat_template_in, checkpoint_problem
from ablation.config.fields import TRACKERS
from ablation.config.merging import ConfigProblem, Key, did_you_mean, dotted
from ablation.config.study import Study
from ablation.data.benchmarks import BENCHMARKS, DATA_SUFFIXES
from ablation.data.local_files import is_local, split_of, training_split
from ablation.data.needles import how_made
from ablation.data.task_data import Parts, data_sets
from ablation.data.task_files import (
    generation_tasks,
    item_tokens,
    lm_eval_names,
    project_tasks,
    task_file_errors,
    task_unscorable_reason,
)
from ablation.vocabulary.masks import MASKS
from ablation.vocabulary.optimizers import SHARDED_OPTIMIZERS
from ablation.vocabulary.recipes import train_mask_of

SHIPPED = Path("resources/micro")


def find_problems(
    values: Mapping, folder: Path, pinned: bool, local: bool = True
) -> Iterator[ConfigProblem]:
    """The problems of a study's merged `values`.

    `folder` holds tasks/. With `pinned`, a hub repository without a commit is a problem too. With
    `local`, files that the study names must be here.
    """
    yield from _task_problems(values, folder)
    yield from _base_problems(values) if local else ()
    yield from _too_long(values, folder) if local else ()
    yield from _instruction_problems(values) if local else ()
    yield from _unpinned(values, folder) if pinned else ()
    yield from _data_problems(values, folder) if local else ()
    yield from _tracker_problems(values) if local else ()
    yield from _other_masks(values)
    yield from _too_few_examples(values)
    yield from _impossible(values)
    yield from _unshared(values)
    yield from _records_of_others(values)
    yield from interventions.find_problems(values)
    yield from bridge.find_problems(values)


def _task_problems(values: Mapping, folder: Path) -> Iterator[ConfigProblem]:
    path = ("evaluation", "tasks")
    yield from (ConfigProblem(path, text) for text in task_file_errors(folder))
    tasks, known = _at(values, *path), [*project_tasks(folder), *lm_eval_names(folder)]
    for number, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if isinstance(task, str) and task not in known:
            hint = how_made(task) or did_you_mean(task, known)
            text = f"{task!r} is neither in {folder}/tasks nor one of lm-eval's own{hint}"
            yield ConfigProblem((*path, number), text)
        elif isinstance(task, str) and (why := task_unscorable_reason(task, folder)):
            yield ConfigProblem(
                (*path, number),
                f"{task!r} cannot be tabulated item by item: multiple_choice, or greedy "
                f"generate_until with exact_match, was expected, {why} found; take another task",
            )
    named = [task for task in tasks if task in known] if isinstance(tasks, list) else []
    if named and generation_tasks(folder, named) == named:
        yield ConfigProblem(
            path,
            f"only generation tasks found ({', '.join(named)}); at least one of multiple choice, "
            "beside which their rows stand in the tables, was expected",
        )


def _at(values: Any, *path: str) -> Any:
    """The value at `path`, or None if there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _base_problems(values: Mapping) -> Iterator[ConfigProblem]:
    base = values.get("base")
    if not isinstance(base, str) or base in ("", "pretrain", "random", *_pins(values)):
        return
    folder = SHIPPED / "base" if base == "shipped" else Path(base)
    file = folder / "config.json"
    if not file.is_file():
        found = "holds no config.json" if folder.is_dir() else "is no folder"
        if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base):
            found += (
                f"; if it is a hub model, write `pins: {{{base}: null}}` and `ablation pin FILE` "
                "fills in its commit"
            )
        yield ConfigProblem(
            ("base",),
            f"{folder} {found}; `shipped`, `pretrain`, `random`, the folder of a Hugging Face "
            "checkpoint or a hub model that is named in `pins` was expected"
            f"{did_you_mean(base, ('shipped', 'pretrain', 'random'))}",
        )
        return
    if base == "shipped":
        yield from _other_world(values.get("world"))
    broken = checkpoint_problem(folder)
    if broken:
        yield ConfigProblem(("base",), broken)
        return
    model = json.loads(file.read_text("utf-8"))
    if unsupported := refusal(model):
        yield ConfigProblem(("base",), f"{folder}: {unsupported}")
        return
    if _at(values, "evaluation", "chat_template") is True and not chat_template_in(folder):
        text = f"true found, but {folder} has no chat template: take false, or a base for chats"
        yield ConfigProblem(("evaluation", "chat_template"), text)


def repositories(values: Mapping, folder: Path) -> dict[str, str]:
    """{hub repository: `model` or `dataset`} for everything that a study reads from the hub.

    `folder` holds tasks/.
    """
    base = values.get("base")
    found = {base: "model"} if isinstance(base, str) and base in _pins(values) else {}
    found |= bridge.repositories(_at(values, "bridge"), _pins(values))
    if base == "random":
        return found  # all other texts are generated
    local = _at(values, "evaluation", "data_folder") is not None
    learned = _at(values, "instructions", "data")
    named = isinstance(learned, str) and not is_local(learned, _pins(values))
    named = named and (learned in _pins(values) or not Path(learned).exists())
    data = [*({} if local else _splits(values, folder)), *([learned] if named else [])]
    return found | dict.fromkeys(data, "dataset")


def _splits(values: Mapping, folder: Path) -> Parts:
    tasks = _at(values, "evaluation", "tasks")
    known = {*project_tasks(folder), *lm_eval_names(folder)}
    named = [t for t in tasks if isinstance(t, str)] if isinstance(tasks, list) else []
    asked = _at(values, "evaluation", "num_fewshot")
    if isinstance(asked, dict):
        asked = {task: number for task, number in asked.items() if isinstance(number, int)}
    elif not isinstance(asked, int):
        asked = None
    return data_sets(folder, [task for task in named if task in known], asked)


def _data_problems(values: Mapping, folder: Path) -> Iterator[ConfigProblem]:
    """Splits that tasks read and that their source does not have."""
    home, path = _at(values, "evaluation", "data_folder"), ("evaluation", "data_folder")
    if isinstance(home, str):
        for data, parts in _splits(values, folder).items():
            for configuration, split in parts:
                if not split_of(home, data, configuration, split):
                    place = (Path(home) / data / configuration).as_posix()
                    text = f"no {split} split found: {place}/{split}-....parquet was expected"
                    yield ConfigProblem(path, text)
    elif values.get("base") == "random":
        made = {benchmark.data for benchmark in BENCHMARKS.values()}
        for data in _splits(values, folder).keys() - made:
            yield ConfigProblem(
                ("evaluation", "tasks"),
                f"a task that reads {data} found, of which a rehearsal (base: random) makes no "
                "texts: leave it out, or give `evaluation.data_folder`",
            )


def _instruction_problems(values: Mapping) -> Iterator[ConfigProblem]:
    data, pins = _at(values, "instructions", "data"), _pins(values)
    if not isinstance(data, str) or not data:
        return
    if not is_local(data, pins):
        if data not in pins and Path(data).exists():
            text = f"{data} is the name of a data set of the hub; write ./{data} for the one here"
            yield ConfigProblem(("instructions", "data"), text)
        elif _at(values, "instructions", "count") is None:
            text = f"no `count` found: the number of records of the hub's {data} was expected"
            yield ConfigProblem(("instructions",), text)
    elif not Path(data).exists():
        yield ConfigProblem(
            ("instructions", "data"),
            f"{data!r} found, which is no file or folder: a {', '.join(DATA_SUFFIXES)} file, a "
            "folder of such files, or a data set of the hub (owner/name) was expected",
        )
    else:
        try:
            training_split(data)
        except ValueError as error:
            yield ConfigProblem(("instructions", "data"), f"{data}: {error}")


def _tracker_problems(values: Mapping) -> Iterator[ConfigProblem]:
    """Trackers whose package is not installed here."""
    asked = values.get("tracking")
    for number, name in enumerate(asked if isinstance(asked, list) else ()):
        if name in TRACKERS and find_spec(name) is None:
            text = f"{name} found, but its package is not installed"
            yield ConfigProblem(("tracking", number), f'{text}: pip install --editable ".[{name}]"')


def _pins(values: Mapping) -> Mapping:
    pins = _at(values, "pins")
    return pins if isinstance(pins, dict) else {}


def is_commit(pin: Any) -> bool:
    """Whether a pin is the full hash of a commit."""
    return isinstance(pin, str) and re.fullmatch(r"[0-9a-f]{40}", pin) is not None


def unpinned(study: Study, folder: Path) -> list[str]:
    """The hub repositories that the study reads and that have no commit yet.

    `folder` holds tasks/.
    """
    return [str(problem.path[-1]) for problem in _unpinned(study.model_dump(), folder)]


def _unpinned(values: Mapping, folder: Path) -> Iterator[ConfigProblem]:
    pins = _pins(values)
    for repository, kind in repositories(values, folder).items():
        pin = pins.get(repository)
        if is_commit(pin) or not isinstance(pin, str | None):
            continue
        found = f"`{pin}` found" if repository in pins and pin else "not pinned"
        yield ConfigProblem(
            ("pins", repository),
            f"{found}, so the {kind} may change on the hub: `ablation pin FILE` asks for its "
            "commit (40 hexadecimal digits) and writes it there",
        )


def _other_world(world: Any) -> Iterator[ConfigProblem]:
    """Changes of the world with the shipped base, which was trained on one world and one split."""
    file = SHIPPED / "manifest.json"
    try:
        made = json.loads(file.read_text("utf-8"))["fingerprint"]["config"]["world"]
        made = {name: made[name] for name in ("seed", "eval_percent", "dev_percent")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield ConfigProblem(
            ("base",),
            f"{file} does not say for which world the shipped base was made "
            f"({type(error).__name__}: {error}): fetch it again",
        )
        return
    for name in made:
        found = world.get(name) if isinstance(world, dict) else None
        if isinstance(found, int) and found != made[name]:
            yield ConfigProblem(
                ("world", name),
                f"{found} found, but the shipped base was made for {made[name]}; "
                "`base: pretrain` makes one for another world",
            )


def _trainings(values: Mapping, *keys: str) -> dict[Key, tuple]:
    """{block: its values of `keys`} for `finetune`, and for each recipe that has other values."""
    blocks: dict[Key, Any] = {("finetune",): values.get("finetune")}
    recipes = values.get("recipes")
    if isinstance(recipes, dict):
        blocks |= {("recipes", name): recipe for name, recipe in recipes.items()}
    found = {path: tuple(_at(block, key) for key in keys) for path, block in blocks.items()}
    return {p: v for p, v in found.items() if p == ("finetune",) or v != found[("finetune",)]}


def _too_long(values: Mapping, folder: Path) -> Iterator[ConfigProblem]:
    """Trainings, and tasks in `folder`/tasks, with texts that the base cannot read as a whole."""
    longest = positions(interventions.base_config(values))
    if longest is None:
        return
    for path, (length,) in _trainings(values, "max_seq_len").items():
        if isinstance(length, int) and length > longest:
            text = f"{length} found, but the base reads at most {longest} tokens"
            yield ConfigProblem((*path, "max_seq_len"), text)
    tasks = _at(values, "evaluation", "tasks")
    for number, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if (length := item_tokens(folder, task)) and length > longest:
            yield ConfigProblem(
                ("evaluation", "tasks", number),
                f"{task!r} has items of {length} tokens, but the base reads at most {longest}: "
                "make shorter ones (`ablation needle`), or take another base",
            )


def _too_few_examples(values: Mapping) -> Iterator[ConfigProblem]:
    source: tuple[str, ...] = ("instructions", "count")
    if _at(values, "instructions") is None:
        source = ("world", "finetuning", "count")
    records = _at(values, *source)
    blocks = _trainings(values, "batch_examples", "heldout_fraction", "max_examples")
    for path, (batch, share, most) in blocks.items():
        if not (isinstance(records, int) and isinstance(batch, int) and isinstance(share, float)):
            continue
        left = records - max(1, round(share * records))
        if isinstance(most, int):
            left = min(left, most)
        if 0 < share < 1 and batch > left:
            yield ConfigProblem(
                (*path, "batch_examples"),
                f"{batch} found, but of {records} records ({dotted(source)}) only {left} are "
                "trained on, too few for one step; give fewer examples, or more records",
            )


def _records_of_others(values: Mapping) -> Iterator[ConfigProblem]:
    """Families of records chosen where the records are not the micro-world's."""
    if _at(values, "instructions") is None:
        return
    chosen = [p for p, (records,) in _trainings(values, "records").items() if records is not None]
    if chosen:
        yield ConfigProblem(
            (*chosen[0], "records"),
            f"{', '.join(str(path[-1]) for path in chosen)} choose families of the micro-world's "
            "records, but `instructions` names other data: give the study `recipes` of its own",
        )


def _impossible(values: Mapping) -> Iterator[ConfigProblem]:
    """Settings that the processor, or the GPU of a Mac, cannot have."""
    hardware = _at(values, "hardware")
    if not isinstance(hardware, dict):
        return
    gpus, mac = hardware.get("gpu"), hardware.get("device") == "mps"
    if hardware.get("attention") == "flex_attention" and (gpus == 0 or mac):
        advice = "take sdpa" if mac else "request a GPU (hardware.gpu), or take sdpa"
        where = "by `device: mps`" if mac else "on a CPU"
        yield ConfigProblem(
            ("hardware", "attention"), f"flex_attention cannot train {where}: {advice}"
        )
    if not mac:
        return
    if gpus != 1:
        yield ConfigProblem(
            ("hardware", "gpu"), f"{gpus} found, but `device: mps` is the one GPU of a Mac: use 1"
        )
    if hardware.get("scoring_gpus") != 1:
        yield ConfigProblem(
            ("hardware", "scoring_gpus"), "`device: mps` is the one GPU of a Mac: 1 was expected"
        )
    if hardware.get("compile"):
        yield ConfigProblem(
            ("hardware", "compile"), "true found, but `device: mps` runs uncompiled: use false"
        )
    if values.get("bridge"):
        yield ConfigProblem(
            ("hardware", "device"), "mps found, but a bridge runs on a CPU or by CUDA: leave it out"
        )


def _unshared(values: Mapping) -> Iterator[ConfigProblem]:
    """Batches and optimizers that several GPUs cannot share."""
    gpus = _at(values, "hardware", "gpu")
    if not isinstance(gpus, int) or gpus < 2:
        return
    keys = ("batch_examples", "micro_batch_examples", "optimizer")
    for path, (batch, micro, optimizer) in _trainings(values, *keys).items():
        whole = isinstance(batch, int) and isinstance(micro, int) and micro > 0
        if whole and batch % micro == 0 and batch % (micro * gpus):
            fitting = [n for n in range(1, micro) if batch % (n * gpus) == 0]
            advice = f"micro_batch_examples {fitting[-1]}" if fitting else f"a multiple of {gpus}"
            yield ConfigProblem(
                (*path, "batch_examples"),
                f"{batch} found, which {gpus} GPUs (hardware.gpu) cannot share in micro-batches of "
                f"{micro}: give {advice}, or other GPUs",
            )
        if isinstance(optimizer, str) and optimizer not in SHARDED_OPTIMIZERS:
            yield ConfigProblem(
                (*path, "optimizer"),
                f"{optimizer} found, but it cannot train weights that {gpus} GPUs (hardware.gpu) "
                f"share: {', '.join(SHARDED_OPTIMIZERS)} was expected, or one GPU",
            )


def _other_masks(values: Mapping) -> Iterator[ConfigProblem]:
    """Masks that contradict the name of their recipe: in tables the name implies the mask."""
    recipes = values.get("recipes")
    for name, recipe in recipes.items() if isinstance(recipes, dict) else ():
        mask, expected = _at(recipe, "train_mask"), train_mask_of(str(name))
        if _at(recipe, "train_under") is not None:
            continue  # the name says it
        if mask in MASKS and expected and mask != expected:
            yield ConfigProblem(
                ("recipes", name, "train_mask"),
                f"{mask} found, but {name} is the recipe that trains under {expected}, and its "
                "rows in tables would be misleading: take the recipe of that mask",
            )
