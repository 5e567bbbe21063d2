"""The JSON-LD of an RO-Crate: entities by their @id, in the order in which they came."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
TERMS = "https://w3id.org/ro/terms/workflow-run#"
EXTRA_TERMS = {term: TERMS + term for term in ("resourceUsage", "sha256")}
EXTRA_TERMS["buildInstructions"] = "https://codemeta.github.io/terms/buildInstructions"
DESCRIPTOR = "ro-crate-metadata.json"

Reference = dict[str, str]


def ref(name: str) -> Reference:
    return {"@id": name}


def refs(ids: Iterable[str]) -> list[Reference]:
    return [{"@id": name} for name in ids]


def local(kind: str, *names: object) -> str:
    """The @id of an entity that is no file: `#kind/name/...`."""
    return "#" + "/".join(quote(str(name), safe="=/") for name in (kind, *names))


def of_file(path: str) -> str:
    """The @id of a file or folder of the crate."""
    return quote(path)


def short(text: str) -> str:
    """A name for what has none of its own."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Graph:
    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any]] = {}

    def add(self, name: str, kind: str | list[str], /, **properties: object) -> str:
        """Add an entity unless it is there; what has no value is left out. Returns its @id."""
        known = {key: value for key, value in properties.items() if value not in (None, [])}
        self.entities.setdefault(name, {"@id": name, "@type": kind, **known})
        return name

    def extend(self, name: str, key: str, other: str) -> None:
        """Append a reference to a property of an entity."""
        values = self.entities[name].setdefault(key, [])
        if {"@id": other} not in values:
            values.append({"@id": other})

    def data(self) -> list[str]:
        """The files and folders, but for the crate itself."""
        return [
            name
            for name, entity in self.entities.items()
            if {"File", "Dataset"} & set(_kinds(entity)) and name[0] != "#" and name != "./"
        ]

    def document(self) -> dict[str, Any]:
        graph = [{k: _compact(v) for k, v in e.items()} for e in self.entities.values()]
        return {"@context": [CONTEXT, EXTRA_TERMS], "@graph": graph}


def _compact(value: object) -> object:
    """A list of one as that one, which RO-Crate 1.1 prefers."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _kinds(entity: dict[str, Any]) -> list[str]:
    kind: str | list[str] = entity["@type"]
    return kind if isinstance(kind, list) else [kind]
