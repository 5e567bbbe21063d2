"""Config files laid on one another: each value with the place where it stands, `file:line`.

A file holds only what differs from the one that it `extends`. Mappings are merged key by key,
except `recipes`, `tasks` and `seeds`, which replace what they extend: a study runs its own recipes,
never a mixture.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEFAULT = "default.yaml"  # what a file extends that does not say
COMMAND_LINE = "--configfile/--config"  # the place of what Snakemake hands over
REPLACED_WHOLE = ("recipes", "tasks", "seeds")

Key = tuple[str | int, ...]  # keys and list indices from the top


class ConfigError(ValueError):
    """The configuration cannot be used; the message names every fault by file and key."""


class Fault(NamedTuple):
    path: Key
    text: str  # what was found, what was expected, what to do


def did_you_mean(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean `{near[0]}`?" if near else ""


class Layer(NamedTuple):
    """What a file says, where each value stands, and what is wrong with the file itself."""

    values: dict
    places: dict[Key, str]
    faults: list[str]


class _Loader(yaml.SafeLoader):
    """YAML as it is meant: `1e-3` is a number (YAML 1.1 wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def merge(base: Mapping, over: Mapping) -> dict:
    """`over` laid on `base`: mappings key by key, all else (and REPLACED_WHOLE) replaced."""
    out = dict(base)
    for key, value in over.items():
        both_mappings = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both_mappings and key not in REPLACED_WHOLE else value
    return out


def resolve(overrides: Mapping, folder: Path, files: Iterable[str | Path] = ()) -> Layer:
    """Lay `overrides` on the chain of files in `folder` that they extend, nearest last.

    `files` are those that Snakemake merged into `overrides`: they only say where a value stands.
    Raises ConfigError for a file that is missing, no YAML mapping, or extends itself.
    """
    given = _from_snakemake(overrides, files)
    layers, name = [given], given.values.pop("extends", None) or DEFAULT
    by, seen = given.places.get(("extends",), COMMAND_LINE), []
    while name is not None:
        file = folder / str(name)
        if file in seen:
            chain = " -> ".join(shown(f) for f in [*seen[seen.index(file) :], file])
            raise ConfigError(f"{by}: `extends` goes in a circle: {chain}")
        if not file.is_file():
            raise ConfigError(
                f"{by}: `extends: {name}` names no file: {shown(file)} was not found "
                f"(a path from {shown(folder)}/ is expected)"
            )
        seen.append(file)
        layer = read_layer(file)
        name = layer.values.pop("extends", None) or (DEFAULT if file.name != DEFAULT else None)
        by = layer.places.get(("extends",), shown(file))
        layers.append(layer)
    whole = Layer({}, {}, [])
    for values, places, faults in reversed(layers):
        whole = Layer(merge(whole.values, values), whole.places | places, whole.faults + faults)
    return whole


def read_layer(file: str | Path) -> Layer:
    """Read one YAML file; a key that stands twice in a mapping is a fault.

    Raises ConfigError, with file and line, for what is not there, no YAML or no mapping.
    """
    name = shown(file)
    try:
        loader = _Loader(Path(file).read_text("utf-8-sig"))
        node = loader.get_single_node()
        layer = Layer({}, {}, [])
        values = {} if node is None else _plain(loader, node, (), name, layer)
    except OSError as fault:
        raise ConfigError(
            f"{name}: {fault.strerror}; the YAML file of a study was expected (config/README.md)"
        ) from None
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1
        hint = "; indent with spaces, not with tabs" if r"'\t'" in str(fault.problem) else ""
        raise ConfigError(
            f"{name}:{line}: no valid YAML: {fault.problem or fault.context}{hint}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise ConfigError(f"{name}: no YAML in UTF-8: {fault}") from None
    if values is None and isinstance(node, yaml.ScalarNode):
        values = {}  # nothing but comments, or `null`
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else f"{values!r}"
        raise ConfigError(f"{name}:1: holds {kind}, but `key: value` lines were expected")
    return layer._replace(values=values)


def _plain(loader: _Loader, node: yaml.Node, path: Key, name: str, layer: Layer) -> Any:
    """The value of `node`, its places and double keys noted in `layer`; keys stay text."""
    layer.places.setdefault(path, f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, n, (*path, k), name, layer) for k, n in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        here, place = (*path, key), f"{name}:{key_node.start_mark.line + 1}"
        if key in values:
            layer.faults.append(
                f"{dotted(here)} ({place}): stands twice, first at {layer.places[here]}; which one "
                "holds is nowhere written: remove one"
            )
        layer.places[here] = place
        values[key] = _plain(loader, value_node, here, name, layer)
    return values


def _from_snakemake(overrides: Mapping, files: Iterable[str | Path]) -> Layer:
    """What Snakemake merged from --configfile and --config, places found again where they can be.

    Snakemake leaves nested values of --config as text, and 1e-3 in a file too: text is read as YAML
    reads it, unless a file says that it is text.
    """
    said, places, faults = {}, {}, []
    for file in files:
        try:
            layer = read_layer(file)
        except ConfigError:
            continue  # JSON with tabs, a template, a file left at home: Snakemake has read it
        said, places = merge(said, layer.values), places | layer.places
        faults += layer.faults

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
            value = scalar(value)
        if value != known:
            found[path] = COMMAND_LINE
        return value

    return Layer(typed(overrides, said, ()), found, faults)


def scalar(text: str) -> Any:
    """The number, truth value or null that `text` is in YAML, else the text."""
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    if tag.rpartition(":")[2] not in ("int", "float", "bool", "null"):
        return text
    return loader.construct_object(yaml.ScalarNode(tag, text))


def dotted(path: Iterable[str | int]) -> str:
    """`world.items.seed`, `seeds[0]`."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path).removeprefix(".")


def shown(file: str | Path) -> str:
    """The path as the user would type it here."""
    near = os.path.relpath(file)
    return str(file) if near.startswith("..") else near
