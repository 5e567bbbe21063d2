"""The tasks that a study can be scored on, and the files that determine what a task asks.

A task of this project is defined by a file under its own name in `tasks/` of the config folder. All
other tasks are lm-eval's; a generated list has their names. This module imports neither torch nor
lm_eval, which take seconds, because every job of Snakemake imports it again.
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

from ablation.data.generation.tasks import GENERATION_TYPE, OWN_METRICS, generation_reason
from ablation.provenance.code_hash import code_closure, code_tokens, module_file
from ablation.provenance.files import display_path, sha256_file, sha256_text

LM_EVAL_NAMES = "tasks/lm_eval_names.txt.gz"  # in the config folder; written by `make config`
SCORED_TYPE = "multiple_choice"  # the output type with one score an item and choice
FILE_BUILDERS = ("arrow", "csv", "json", "parquet", "text")  # of the library `datasets`

# {key by which a task would depend on a file that is not hashed: what to do instead}
FORBIDDEN_KEYS = {
    "group": "name its members in evaluation.tasks",
    "tag": "remove it, and name the tasks in evaluation.tasks",
    "include": "copy the included lines into it",
}


class _Loader(yaml.SafeLoader):
    """Loads YAML with lm-eval's tag `!function`, whose value stays a text."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


# ---- names of tasks -------------------------------------------------------------------------


def project_task_files(folder: Path) -> dict[Path, Any]:
    """{file: its content} of all task files in `folder`/tasks.

    The content of a file that is no YAML is the text of the error.
    """
    return _task_files(folder, os.getcwd())


@cache
def _task_files(folder: Path, working_directory: str) -> dict[Path, Any]:
    """What `project_task_files` returns; a relative folder is another one elsewhere."""

    def read(file: Path) -> Any:
        try:
            return yaml.load(file.read_text("utf-8"), _Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            return " ".join(str(error).split())

    return {file: read(file) for file in sorted((folder / "tasks").rglob("*.yaml"))}


def project_tasks(folder: Path) -> list[str]:
    """The names of the tasks in `folder`/tasks."""
    return [file.stem for file in project_task_files(folder)]


@cache
def _lm_eval_list(folder: Path) -> dict[str, list[str]]:
    """{name: the other columns} of the generated list of lm-eval's tasks, groups and tags."""
    _, *lines = gzip.decompress((folder / LM_EVAL_NAMES).read_bytes()).decode().split("\n")
    return {name: columns for name, *columns in (line.split("\t") for line in lines)}


def lm_eval_names(folder: Path) -> dict[str, str]:
    """{name: the reason why it cannot be scored, or ""} of lm-eval's tasks, groups and tags."""
    found = {name: "".join(columns[:1]) for name, columns in _lm_eval_list(folder).items()}
    return {name: "" if why == GENERATION_TYPE else why for name, why in found.items()}


def lm_eval_sources(folder: Path, name: str) -> list[str]:
    """The sources of lm-eval's task, group or tag, as `ablation.data.task_data` writes them."""
    return _lm_eval_list(folder).get(name, [])[1:]


# ---- which tasks can be scored --------------------------------------------------------------


def output_type(task: Mapping) -> str:
    """The output type of a task with this configuration."""
    return str(task.get("output_type", GENERATION_TYPE))  # lm-eval's default


def unscorable_reason(task: Mapping) -> str:
    """The reason why a task with this configuration cannot be tabulated item by item, or ""."""
    kind = output_type(task)
    if kind == GENERATION_TYPE:
        return generation_reason(task)
    if kind != SCORED_TYPE:
        return kind
    return OWN_METRICS if task.get("process_results") else ""


def generation_tasks(folder: Path, tasks: Iterable[str]) -> list[str]:
    """Those of `tasks`, of this project or of lm-eval, whose texts are generated."""
    own = {file.stem: task for file, task in project_task_files(folder).items()}

    def is_generation(name: str) -> bool:
        if name in own:
            task = own[name]
            return isinstance(task, Mapping) and output_type(task) == GENERATION_TYPE
        return "".join(_lm_eval_list(folder).get(name, [])[:1]) == GENERATION_TYPE

    return [name for name in tasks if is_generation(name)]


def task_unscorable_reason(name: str, folder: Path) -> str:
    """`unscorable_reason` of a task of this project, or else of lm-eval.

    Raises KeyError for a name that neither has.
    """
    contents = [task for file, task in project_task_files(folder).items() if file.stem == name]
    if not contents:
        return lm_eval_names(folder)[name]
    reasons = (unscorable_reason(task) for task in contents if isinstance(task, Mapping))
    return next(filter(None, reasons), "")


def item_tokens(folder: Path, task: Any) -> int:
    """The tokens of each item of `task`, as `metadata: {tokens: ...}` of its file says, or 0."""
    for file, content in project_task_files(folder).items():
        metadata = content.get("metadata") if isinstance(content, dict) else None
        tokens = metadata.get("tokens") if isinstance(metadata, dict) else None
        if file.stem == task and isinstance(tokens, int):
            return tokens
    return 0


def task_file_errors(folder: Path) -> Iterator[str]:
    """A message for each task file that does not define one task under the name of the file.

    Only the files that are named like the tasks in `evaluation.tasks` are hashed. Because lm-eval
    uses the names in the files, any other file could replace a hashed one unnoticed.
    """
    for file, task in project_task_files(folder).items():
        path = display_path(file)
        if not isinstance(task, dict):
            yield f"{path} is no task in YAML ({task}): correct or remove it"
            continue
        forbidden = [key for key in FORBIDDEN_KEYS if key in task]
        for key in forbidden:
            yield (
                f"{path} has `{key}: {task[key]}`, which refers to files that are not hashed, so a "
                f"changed prompt would not be scored again: {FORBIDDEN_KEYS[key]}"
            )
        if task.get("task") != file.stem and not forbidden:
            yield (
                f"{path} has `task: {task.get('task')}`, but `task: {file.stem}` was expected: a "
                "task is hashed by the file of its name; rename one of them"
            )


# ---- hashes of what a task asks -------------------------------------------------------------


def task_hashes(folder: Path, tasks: Iterable[str]) -> dict[str, str]:
    """{file in `folder`/tasks: hash} of all files that determine what `tasks` ask.

    These are task files and Python files beside them. Modules of `ablation` that the code imports,
    and data files that tasks name, are included under their own names.
    """
    tasks = list(tasks)
    texts = {file: file.read_text("utf-8") for file in _files_of(folder, tasks)}
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


def _files_of(folder: Path, tasks: Iterable[str]) -> list[Path]:
    """The task files of `tasks`; all files if one of the names is not a task of this project.

    Such a name may be a group or tag of lm-eval, whose members this project's files can replace.
    """
    names, files = set(tasks), project_task_files(folder)
    foreign = names - set(project_tasks(folder))
    return [file for file in files if file.stem in names or foreign]


def data_files(folder: Path, tasks: Iterable[str]) -> list[str]:
    """The local data files that `tasks` read: those in `data_files`, or all in a data folder.

    As in the library `datasets`, paths are relative to the working directory, to `data_dir`, or to
    a folder in `dataset_path`. A missing file is included; files on the hub or at a URL are not.
    """
    found: set[str] = set()
    for file in _files_of(folder, tasks):
        task = project_task_files(folder)[file]
        if not isinstance(task, dict):
            continue
        kwargs, path = task.get("dataset_kwargs"), str(task.get("dataset_path", ""))
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        if path not in ("", *FILE_BUILDERS) and not os.path.isdir(path):
            continue
        home = os.path.join("" if path in FILE_BUILDERS else path, kwargs.get("data_dir") or "")
        names = list(_texts_in(kwargs.get("data_files")))
        for name in (name for name in names if "://" not in name):
            pattern = os.path.normpath(os.path.join(home, name))
            found |= set(glob(pattern, recursive=True)) or {pattern}
        if home and not names:
            everything = glob(os.path.join(home, "**"), recursive=True)
            found |= {os.path.normpath(name) for name in everything if os.path.isfile(name)}
    return sorted(found)


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in a text, or in a list or mapping of texts at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)
