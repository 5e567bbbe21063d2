"""Merges configuration files, and records for each value where it was written (`file:line`).

A file holds only the differences from the file that it `extends`. Mappings are merged key by key,
except `recipes`, `tasks`, `seeds` and `records`, which replace the earlier value: a study runs its
own recipes, never a mixture.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ablation.provenance.code_hash import ROOT
from ablation.provenance.files import display_path

DEFAULT = "default.yaml"  # the file that is extended if a file has no `extends`
COMMAND_LINE = "--configfile/--config"  # the place of values that come from Snakemake
REPLACED_WHOLE = ("recipes", "tasks", "seeds", "records")
Key = tuple[str | int, ...]  # the path of a value: keys and list indices


def shipped_config() -> Path:
    """The folder of default.yaml: config/ here, or that of the installed workflow elsewhere."""
    here = Path("config")
    return here if (here / DEFAULT).is_file() else ROOT / "config"


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every problem with its file and key."""


class ConfigProblem(NamedTuple):
    """A problem of the value at `path`: what was found, what was expected, and what to do."""

    path: Key
    text: str


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`, did you mean ...?` with the most similar of `names`, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean `{near[0]}`?" if near else ""


class LocatedValues(NamedTuple):
    """The values of one or several files, the place of each, and problems of the files."""

    values: dict
    places: dict[Key, str]
    problems: list[str]


class _Loader(yaml.SafeLoader):
    """Reads `1e-3` as a number; YAML 1.1 would need `1.0e-3`."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def merge(base: Mapping, over: Mapping) -> dict:
    """`base` updated by `over`: mappings key by key; REPLACED_WHOLE and other values as a whole."""
    out = dict(base)
    for key, value in over.items():
        both_mappings = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both_mappings and key not in REPLACED_WHOLE else value
    return out


def resolve(overrides: Mapping, folder: Path, files: Iterable[str | Path] = ()) -> LocatedValues:
    """Merge `overrides` with the chain of files in `folder` that they extend.

    `files` are those that Snakemake has merged into `overrides`; they are read to find the place of
    each value. Raises ConfigError for a file that is missing, no YAML mapping, or extends itself.
    """
    given = _from_snakemake(overrides, files)
    chain, name = [given], given.values.pop("extends", None) or DEFAULT
    by = given.places.get(("extends",), COMMAND_LINE)
    seen: list[Path] = []
    while name is not None:
        file = folder / str(name)
        if file in seen:
            circle = " -> ".join(display_path(f) for f in [*seen[seen.index(file) :], file])
            raise ConfigError(f"{by}: `extends` goes in a circle: {circle}")
        if not file.is_file():
            raise ConfigError(
                f"{by}: `extends: {name}` names no file: {display_path(file)} was not found "
                f"(a path from {display_path(folder)}/ is expected)"
            )
        seen.append(file)
        content = read_config_file(file)
        name = content.values.pop("extends", None) or (DEFAULT if file.name != DEFAULT else None)
        by = content.places.get(("extends",), display_path(file))
        chain.append(content)
    merged = LocatedValues({}, {}, [])
    for values, places, problems in reversed(chain):
        merged = LocatedValues(
            merge(merged.values, values), merged.places | places, merged.problems + problems
        )
    return merged


def read_config_file(file: str | Path) -> LocatedValues:
    """Read one YAML file; a key that occurs twice in a mapping is a problem.

    Raises ConfigError, with file and line, for a file that is missing, no YAML or no mapping.
    """
    name = display_path(file)
    try:
        loader = _Loader(Path(file).read_text("utf-8-sig"))
        node = loader.get_single_node()
        content = LocatedValues({}, {}, [])
        values = {} if node is None else _plain(loader, node, (), name, content)
    except OSError as error:
        raise ConfigError(
            f"{name}: {error.strerror}; the YAML file of a study was expected (config/README.md)"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = "; indent with spaces, not with tabs" if r"'\t'" in str(error.problem) else ""
        at_end = str(error.problem).endswith(("'<stream end>'", "unexpected end of stream"))
        if at_end and error.context_mark:
            line = error.context_mark.line + 1
            hint = "; close what this line opens"
        elif "expected ':'" in str(error.problem) and error.context_mark:
            line = error.context_mark.line + 1
            hint = "; write `key: value`"
        raise ConfigError(
            f"{name}:{line}: no valid YAML: {error.problem or error.context}{hint}"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{name}:{line}: no text in UTF-8 (byte {error.object[error.start]:#04x}): save the "
            "file in the encoding UTF-8"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: no YAML in UTF-8: {error}") from None
    if values is None and isinstance(node, yaml.ScalarNode):
        values = {}  # nothing but comments, or `null`
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else f"{values!r}"
        raise ConfigError(f"{name}:1: holds {kind}, but `key: value` lines were expected")
    return content._replace(values=values)


def _plain(loader: _Loader, node: yaml.Node, path: Key, name: str, content: LocatedValues) -> Any:
    """The value of `node`, with keys as text; adds places and repeated keys to `content`."""
    content.places.setdefault(path, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, n, (*path, k), name, content) for k, n in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        here, place = (*path, key), f"{name}:{key_node.start_mark.line + 1}"
        if key in values:
            content.problems.append(
                f"{dotted(here)} ({place}): occurs twice, first at {content.places[here]}: remove "
                "one of them"
            )
        content.places[here] = place
        values[key] = _plain(loader, value_node, here, name, content)
    return values


def _from_snakemake(overrides: Mapping, files: Iterable[str | Path]) -> LocatedValues:
    """The values that Snakemake merged from --configfile and --config, with their places.

    Snakemake leaves nested values of --config, and numbers such as 1e-3 in files, as text. Such a
    text is parsed as YAML, unless a file quotes it.
    """
    written: dict = {}
    places: dict[Key, str] = {}
    problems: list[str] = []
    for file in files:
        try:
            content = read_config_file(file)
        except ConfigError:
            continue  # such as JSON with tabs, or a file of another machine: Snakemake has read it
        written, places = merge(written, content.values), places | content.places
        problems += content.problems

    found: dict[Key, str] = {}

    def typed(value: Any, known: Any, path: Key) -> Any:
        found[path] = places.get(path, COMMAND_LINE)
        if isinstance(value, Mapping):
            inner = known if isinstance(known, Mapping) else {}
            return {str(k): typed(v, inner.get(str(k)), (*path, str(k))) for k, v in value.items()}
        if isinstance(value, list):
            same = isinstance(known, list) and len(known) == len(value)
            pairs = zip(value, known if same else [None] * len(value), strict=True)
            return [typed(v, other, (*path, k)) for k, (v, other) in enumerate(pairs)]
        if isinstance(value, str) and value != known:
            value = parse_scalar(value)
        if value != known:
            found[path] = COMMAND_LINE
        return value

    return LocatedValues(typed(overrides, written, ()), found, problems)


def parse_scalar(text: str) -> Any:
    """The number, truth value or null that `text` is in YAML, or else the text itself."""
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    if tag.rpartition(":")[2] not in ("int", "float", "bool", "null"):
        return text
    return loader.construct_object(yaml.ScalarNode(tag, text))


def dotted(path: Iterable[str | int]) -> str:
    """A path as users write it: `world.items.seed`, `seeds[0]`."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path).removeprefix(".")
