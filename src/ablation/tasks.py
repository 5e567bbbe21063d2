"""Which tasks a study can be scored on, and the files whose text decides what they ask.

A task of ours is a file under its own name in `tasks/` of the config folder; all others are
lm-eval's, known by a generated list. No torch, no lm_eval (seconds): every job reads this again.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from ablation.code_hash import code_closure, code_tokens, module_file
from ablation.layers import shown
from ablation.provenance import sha256_file, sha256_text

LM_EVAL_NAMES = "tasks/lm_eval_names.txt.gz"  # in the config folder; `make config` writes it
SCORED = "multiple_choice"  # the output type that can be tabulated item by item
BUILDERS = ("arrow", "csv", "json", "parquet", "text")  # of `datasets`: they read files
OWN_METRICS = "its own metrics (process_results)"

# What would let a task ask something that stands in no file of its name, and what to do instead.
NOT_HASHED = {
    "group": "name its members in evaluation.tasks",
    "tag": "remove it, and name the tasks in evaluation.tasks",
    "include": "copy the included lines into it",
}


class _Loader(yaml.SafeLoader):
    """YAML with lm-eval's `!function`, which stays text."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


@cache
def own_files(folder: Path) -> dict[Path, Any]:
    """{file: what it says} of every task file in `folder`/tasks; text where it is no YAML."""

    def said(file: Path) -> Any:
        try:
            return yaml.load(file.read_text("utf-8"), _Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as fault:
            return " ".join(str(fault).split())

    return {file: said(file) for file in sorted((folder / "tasks").rglob("*.yaml"))}


def own_tasks(folder: Path) -> list[str]:
    """The names of the tasks in `folder`/tasks."""
    return [file.stem for file in own_files(folder)]


@cache
def lm_eval_names(folder: Path) -> dict[str, str]:
    """{name: why it cannot be scored, or ""} of lm-eval's own tasks, groups and tags."""
    lines = gzip.decompress((folder / LM_EVAL_NAMES).read_bytes()).decode().split("\n")
    return {name: why for name, _, why in (line.partition("\t") for line in lines)}


def why_not(task: Mapping) -> str:
    """Why a task with this configuration cannot be tabulated item by item, "" if it can."""
    kind = task.get("output_type", "generate_until")  # lm-eval's default
    if kind != SCORED:
        return str(kind)
    return OWN_METRICS if task.get("process_results") else ""


def unscorable(name: str, folder: Path) -> str:
    """`why_not` of a task of ours, else of lm-eval's; KeyError for a name that neither has."""
    ours = [said for file, said in own_files(folder).items() if file.stem == name]
    if not ours:
        return lm_eval_names(folder)[name]
    return next(filter(None, (why_not(said) for said in ours if isinstance(said, Mapping))), "")


def file_faults(folder: Path) -> Iterator[str]:
    """Each task file that is not one task under its own name, with what to do.

    Only the files that `evaluation.tasks` names are hashed; lm-eval goes by what files say, so that
    any file could take the place of another.
    """
    for file, said in own_files(folder).items():
        if not isinstance(said, dict):
            yield f"{shown(file)} is no task in YAML ({said}): mend or remove it"
            continue
        for key in NOT_HASHED.keys() & said.keys():
            yield (
                f"{shown(file)} has `{key}: {said[key]}`, which reaches beyond the files that are "
                f"hashed, so that a changed prompt would not be measured anew: {NOT_HASHED[key]}"
            )
        if said.get("task") != file.stem and not NOT_HASHED.keys() & said.keys():
            yield (
                f"{shown(file)} says `task: {said.get('task')}`, `task: {file.stem}` was expected: "
                "a task stands in the file of its name, by which it is hashed; rename one of them"
            )


def task_hashes(folder: Path, tasks: Iterable[str]) -> dict[str, str]:
    """{file in `folder`/tasks: hash} of all that decides what `tasks` ask: their files and code.

    The modules that the code uses, and the data that tasks name, stand beside them under their own
    names.
    """
    texts = {file: file.read_text("utf-8") for file in _asked(folder, tasks)}
    code = {python for file in texts for python in file.parent.glob("*.py")}
    for file, text in texts.items():
        modules = (name.replace(".", "/") for name in re.findall(r"!function +([\w.]+)\.\w", text))
        code |= {p for p in (file.parent / f"{module}.py" for module in modules) if p.is_file()}
    texts |= {python: code_tokens(python.read_text("utf-8")) for python in sorted(code)}
    found = {f.relative_to(folder / "tasks").as_posix(): sha256_text(t) for f, t in texts.items()}
    used = sorted({module for python in code for module in code_closure(python)})
    found |= {m: sha256_text(code_tokens(module_file(m).read_text("utf-8"))) for m in used}
    data = (file for file in data_files(folder, tasks) if Path(file).is_file())
    return found | {file: sha256_file(file) for file in data}


def _asked(folder: Path, tasks: Iterable[str]) -> list[Path]:
    """The task files of `tasks`.

    A group or tag of lm-eval may hold any task that a file of ours replaces: with a name that is
    not ours, all files count.
    """
    files, tasks = own_files(folder), set(tasks)
    return [f for f in files if f.stem in tasks or tasks - set(own_tasks(folder))]


def data_files(folder: Path, tasks: Iterable[str]) -> list[str]:
    """The local files that `tasks` read: what `data_files` names, or all files of a data folder.

    They are relative to the working directory, to `data_dir`, or to a folder that is the
    `dataset_path`, as `datasets` has it. A file that is not there is named all the same; what
    stands on the hub or elsewhere is not.
    """
    found: set[str] = set()
    for file in _asked(folder, tasks):
        said = own_files(folder)[file]
        if not isinstance(said, dict):
            continue
        kwargs, path = said.get("dataset_kwargs"), str(said.get("dataset_path", ""))
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        if path not in ("", *BUILDERS) and not os.path.isdir(path):
            continue
        within = os.path.join("" if path in BUILDERS else path, kwargs.get("data_dir") or "")
        names = list(_texts(kwargs.get("data_files")))
        for name in (name for name in names if "://" not in name):
            there = os.path.normpath(os.path.join(within, name))
            found |= set(glob(there, recursive=True)) or {there}
        if within and not names:
            everything = glob(os.path.join(within, "**"), recursive=True)
            found |= {os.path.normpath(name) for name in everything if os.path.isfile(name)}
    return sorted(found)


def _texts(value: Any) -> Iterator[str]:
    """The texts in a text, a list or a mapping of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
