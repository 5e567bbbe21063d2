"""Generates manuals (`make config`), so that the meaning of a key or column is written only once.

From `ablation.config.study`: schema.json, the table of keys in README.md, and the comments of
default.yaml, whose values are edited in that file. From `ablation.analysis.recovery_columns`: the
table of columns in docs/stages.md. From resources/published/prefill.json and the real study: the
table of deviations in docs/published.md. From lm_eval: the names of its tasks.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from textwrap import wrap

import yaml

from ablation.analysis.published_training import deviation_table
from ablation.analysis.recovery_columns import COLUMN
from ablation.config.load import load_study, schema, schema_keys
from ablation.data.generation.tasks import GENERATION_TYPE
from ablation.data.task_data import source_of
from ablation.data.task_files import LM_EVAL_NAMES, output_type, unscorable_reason
from ablation.provenance.files import write_bytes, write_text
from ablation.vocabulary.recipes import RECIPE

ROOT = Path(__file__).resolve().parent.parent
CONFIG, STAGES = ROOT / "config", ROOT / "docs/stages.md"
PUBLISHED, PUBLISHED_MANUAL = ROOT / "resources/published/prefill.json", ROOT / "docs/published.md"
RECIPE_KEYS = ("train_mask", "train_under", "score_under")  # the others are those of finetune
REAL_STUDY = "ministral3b.yaml"
WIDTH = 100
HEAD = """\
# yaml-language-server: $schema=schema.json
# The micro study, which runs on any CPU in minutes. This file has every key of a study with its
# meaning; other files hold only their differences (they extend default.yaml unless they have an
# `extends`). README.md is the manual. `make config` writes these comments from src/ablation/config;
# values are edited here.

"""
TABLE = re.compile(r"(?<=<!-- keys, by `make config` -->\n).*(?=\n<!-- end of keys -->)", re.S)
COLUMN_TABLE = re.compile(
    r"(?<=<!-- columns, by `make config` -->\n).*(?=\n<!-- end of columns -->)", re.S
)
DEVIATION_TABLE = re.compile(
    r"(?<=<!-- deviations, by `make config` -->\n).*(?=\n<!-- end of deviations -->)", re.S
)
HARD_SPACE = "\N{NO-BREAK SPACE}"


# ---- default.yaml: its values, with new comments -----------------------------------------------


def default_yaml(text: str) -> str:
    """`text`, the content of default.yaml, with comments from the schema."""
    meanings = {path: part.get("description", "") + _choices(part) for path, part in schema_keys()}
    meanings |= {("recipes", name): recipe.note for name, recipe in RECIPE.items()}
    return HEAD + "".join(f"{line}\n" for line in _lines(yaml.compose(text), (), text, meanings))


def _choices(part: dict) -> str:
    return f" One of: {', '.join(part['enum'])}." if "enum" in part else ""


def _lines(node: yaml.MappingNode, path: tuple, text: str, meanings: dict) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in node.value:
        here = (*path, key.value)
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        written = "" if block else text[value.start_mark.index : value.end_mark.index]
        if block and not path:
            yield ""
        yield from _commented(f"{indent}{key.value}:", written, meanings.get(here, ""), indent)
        if block:
            yield from _lines(value, here, text, meanings)


def _commented(key: str, value: str, meaning: str, indent: str) -> Iterator[str]:
    """`key: value # meaning`; a long meaning goes above that line, a long value below."""
    line, comment = f"{key} {' '.join(value.split())}".rstrip(), f" # {meaning}" if meaning else ""
    if len(line + comment) <= WIDTH:
        yield line + comment
        return
    sign = f"{indent}# "
    yield from wrap(meaning, WIDTH, initial_indent=sign, subsequent_indent=sign)
    if len(line) <= WIDTH:
        yield line
        return
    yield key
    entries = " ".join(value.split()).replace(
        ": ", f":{HARD_SPACE}"
    )  # lines break only between entries
    for row in wrap(entries, WIDTH, initial_indent=f"{indent}  ", subsequent_indent=f"{indent}   "):
        yield row.replace(HARD_SPACE, " ")


# ---- README.md: the table of keys ----------------------------------------------------------------


def readme(text: str) -> str:
    """`text`, the content of README.md, with a new table of keys."""
    rows = [
        f"| `{'.'.join(path)}` | {_value(part)} | {_escaped(part.get('description', ''))} |"
        for path, part in schema_keys()
        if path[-1] != "<name>"
        and (path[0] != "recipes" or path[-1] in ("recipes", *RECIPE_KEYS))
        and (path[0] != "interventions" or len(path) == 1)  # docs/interventions.md has its keys
        and path[:3] != ("bridge", "recipes", "<name>")  # the keys of bridge.training
    ]
    table = "\n".join(["| key | value | meaning |", "|---|---|---|", *rows])
    return TABLE.sub(lambda _: table, text)


def _escaped(meaning: str) -> str:
    return meaning.replace("|", r"\|").replace("<", "&lt;")


def _value(part: dict) -> str:
    """The values that a key may have, from its part of the JSON schema."""
    if "anyOf" in part:
        return ", or ".join("null" if c.get("type") == "null" else _value(c) for c in part["anyOf"])
    if "enum" in part:
        return ", ".join(f"`{name}`" for name in part["enum"])
    match part.get("type"):
        case "array":
            return f"list of {_value(part['items'])}"
        case "object" | None:
            names = ", ".join(f"`{name}`" for name in part.get("propertyNames", {}).get("enum", ()))
            return f"mapping of {names}" if names else "mapping"
        case kind:
            signs = {"minimum": "≥", "exclusiveMinimum": ">"}
            signs |= {"maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "multiple of"}
            limits = [f"{sign} {part[name]}" for name, sign in signs.items() if name in part]
            limits = [limit.replace(str(2**32), "2^32") for limit in limits]
            return ", ".join(
                [{"string": "text", "boolean": "true, false"}.get(kind, kind), *limits]
            )


# ---- docs/stages.md: the table of columns --------------------------------------------------------


def stages_manual(text: str) -> str:
    """`text`, the content of docs/stages.md, with a new table of the columns of recovery.csv."""
    rows = [f"| `{column.name}` | {column.meaning} |" for column in COLUMN.values()]
    table = "\n".join(["| column | meaning |", "|---|---|", *rows])
    return COLUMN_TABLE.sub(lambda _: table, text)


# ---- docs/published.md: the table of deviations --------------------------------------------------


def published_manual(text: str) -> str:
    """`text`, the content of docs/published.md, with a new table of the real study's deviations."""
    study = load_study({"extends": REAL_STUDY}, CONFIG, pinned=False)
    table = deviation_table(study, json.loads(PUBLISHED.read_text("utf-8")))
    return DEVIATION_TABLE.sub(lambda _: table, text)


# ---- the rest ------------------------------------------------------------------------------------


def schema_json() -> str:
    """The content of schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def lm_eval_names() -> str:
    """lm_eval's version, then the names of its tasks, groups and tags, one in each line.

    After a tab follows the reason why a task cannot be scored, or nothing, or `generate_until` for
    one whose texts can be generated, and then, after a tab each, what the task reads. A group or
    tag can be scored if all its tasks can, in the same way, and reads what they read. This takes
    10 s, because lm_eval reads the files of all its tasks.
    """
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    lines = [version("lm_eval")]
    for name in sorted(index):
        tasks = list(_tasks(name, index, {}))
        why = ", ".join(sorted({_reason(task) for task in tasks} - {""}))
        kinds = {output_type(task) for task in tasks}
        if not why and len(kinds) > 1:
            why = f"a group of {' and '.join(sorted(kinds))}"
        read = [] if why else sorted({str(source) for task in tasks if (source := source_of(task))})
        why = why or (GENERATION_TYPE if kinds == {GENERATION_TYPE} else "")
        lines.append("\t".join([name, why, *read]).rstrip())
    return "\n".join(lines)


def _reason(task: dict) -> str:
    return "a class of its own" if "class" in task else unscorable_reason(task)


def _tasks(name: str, index: dict, over: dict) -> Iterator[dict]:
    """The configuration of every task below a name; `over` has the values that groups set."""
    entry = index[name]
    match entry.kind.name:
        case "TAG":
            for task in sorted(entry.tags & index.keys()):
                yield from _tasks(task, index, over)
        case "GROUP":
            yield from _members(entry.cfg, index, over)
        case _:
            yield entry.cfg | over


def _members(group: dict, index: dict, over: dict) -> Iterator[dict]:
    from lm_eval.tasks._factory import GROUP_FIELD_NAMES

    shared = {k: v for k, v in group.items() if k not in GROUP_FIELD_NAMES} | over
    for member in group.get("task") or ():
        own = member if isinstance(member, dict) else {"task": member}
        name = own.get("group", own.get("task"))
        given = {k: v for k, v in own.items() if k not in ("task", "group")}
        if name in index:
            yield from _tasks(name, index, shared | given)
        elif "group" in own:
            yield from _members(own, index, shared)
        else:
            yield shared | given


def texts() -> dict[Path, str]:
    """{generated text file: its content}."""
    default, manual = CONFIG / "default.yaml", CONFIG / "README.md"
    return {
        default: default_yaml(default.read_text("utf-8")),
        manual: readme(manual.read_text("utf-8")),
        CONFIG / "schema.json": schema_json(),
        STAGES: stages_manual(STAGES.read_text("utf-8")),
        PUBLISHED_MANUAL: published_manual(PUBLISHED_MANUAL.read_text("utf-8")),
    }


if __name__ == "__main__":
    for file, text in texts().items():
        write_text(file, text)
    write_bytes(CONFIG / LM_EVAL_NAMES, gzip.compress(lm_eval_names().encode(), mtime=0))
