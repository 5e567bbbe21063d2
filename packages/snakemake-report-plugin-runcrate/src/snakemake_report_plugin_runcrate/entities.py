"""Entities of a crate: files and folders, values, software, machines and people.

Each method adds an entity unless it is there, and returns its @id.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from . import terms
from .files import is_below
from .graph import Graph, Reference, local, of_file, ref, refs, short
from .hooks import File, Machine
from .hooks import Reference as Used
from .runs import Crate

TYPES = mimetypes.MimeTypes(filenames=())  # the same on every machine


class Entities:
    def __init__(self, graph: Graph, crate: Crate) -> None:
        self.graph, self.crate = graph, crate

    # ---- files ----------------------------------------------------------------------------------

    def file(self, file: File, name: str | None = None) -> str:
        """A file of the crate; its path is relative to the crate's folder."""
        return self.graph.add(
            of_file(file.path), "File", name=name or file.path, contentSize=_size(file),
            sha256=file.sha256, encodingFormat=_media_type(file.path),
        )  # fmt: skip

    def result(self, file: File) -> str:
        """A file that a job made; its path is relative to the folder in which Snakemake runs."""
        if not file.here or not is_below(file.path, self.crate.folder):
            return self._elsewhere(file)
        return self.file(File(self._inside(file.path), file.sha256, file.bytes))

    def folder(self, path: str, files: Iterable[File] = ()) -> str:
        """A directory and the files in it."""
        if not is_below(path, self.crate.folder):
            return self._elsewhere(File(path))
        name = self._inside(path) + "/"
        parts = refs(map(self.result, files))
        return self.graph.add(of_file(name), "Dataset", name=name, hasPart=parts)

    def input(self, path: str, file: File | None = None) -> str:
        """What a job read: a workflow file, a result, or a file from outside the workflow."""
        if path in self.crate.workflow:
            return of_file(self.crate.workflow[path].path)
        if is_below(path, self.crate.folder):
            for inside in (of_file(self._inside(path)), of_file(self._inside(path) + "/")):
                if inside in self.graph.entities:
                    return inside
            if path in self.crate.inputs:
                return self.result(self.crate.inputs[path])
            if os.path.isdir(path):
                return self.folder(path)
        return self._elsewhere(file or self.crate.inputs.get(path) or File(path))

    def _inside(self, path: str) -> str:
        return os.path.relpath(path, self.crate.folder)

    def _elsewhere(self, file: File) -> str:
        """What is not in the crate; its hash is given if it is known."""
        return self.graph.add(
            local("elsewhere", file.path), "CreativeWork", name=file.path,
            description="Not in this crate.", sha256=file.sha256, contentSize=_size(file),
        )  # fmt: skip

    # ---- values ---------------------------------------------------------------------------------

    def parameter(self, key: str, value: object) -> str:
        """A configuration key: a FormalParameter, and the value that this run gives it."""
        name, example = local("parameter", key), local("value", key)
        self.graph.add(
            name, "FormalParameter", name=key, additionalType=_data_type(value),
            workExample=ref(example), valueRequired=False,
        )  # fmt: skip
        self.graph.add(
            example, "PropertyValue", name=key, value=_plain(value), exampleOfWork=ref(name)
        )
        return name

    def value(self, kind: str, *names: str, value: object) -> str:
        return self.graph.add(
            local(kind, *names), "PropertyValue", name=names[-1], value=_plain(value)
        )

    def usage(self, of: str, **figures: float | None) -> list[Reference]:
        """What an action took, as far as it is known."""
        known = {figure: value for figure, value in figures.items() if value is not None}
        return refs(
            self.graph.add(
                local("usage", of, figure), "PropertyValue", name=figure, value=value,
                propertyID=figure, unitCode=terms.USAGE[figure],
            )
            for figure, value in known.items()
        )  # fmt: skip

    # ---- software, machines, people -------------------------------------------------------------

    def package(self, name: str, version: str) -> str:
        url = f"pkg:pypi/{name.replace('_', '-')}@{version}"  # github.com/package-url/purl-spec
        return self.graph.add(
            url, "SoftwareApplication", name=name, softwareVersion=version, url=url
        )

    def container(self, image: str) -> str:
        return self.graph.add(
            image if "://" in image else local("container", image), "SoftwareApplication",
            name=image, description="A container image.",
        )  # fmt: skip

    def environment(self, name: str) -> str:
        """A conda environment file of the workflow."""
        recipe = of_file(self.crate.workflow[name].path)
        self.graph.entities[recipe]["conformsTo"] = ref(terms.CONDA)
        return recipe

    def used(self, used: Used) -> str:
        return self.graph.add(
            used.url or local("used", used.name, used.version), "CreativeWork", name=used.name,
            version=used.version, url=used.url,
        )  # fmt: skip

    def machine(self, machine: Machine) -> str:
        name = local("machine", machine.host, short(machine.description))
        return self.graph.add(name, "Place", name=machine.host, description=machine.description)

    def author(self, author: Mapping[str, Any]) -> str:
        """An author of CITATION.cff, a person or a group."""
        if "name" in author:
            return self.graph.add(
                local("organization", author["name"]), "Organization", name=author["name"],
                url=author.get("website"),
            )  # fmt: skip
        names = " ".join(filter(None, (author.get("given-names"), author.get("family-names"))))
        group = author.get("affiliation")
        group = group and self.graph.add(local("organization", group), "Organization", name=group)
        return self.graph.add(
            author.get("orcid") or local("person", names), "Person", name=names,
            affiliation=ref(group) if group else None,
        )  # fmt: skip

    def person(self, text: str) -> str:
        """`NAME` or `NAME <URL>`."""
        name, _, url = text.partition("<")
        name, url = name.strip(), url.strip().rstrip(">")
        return self.graph.add(url or local("person", name), "Person", name=name or url)


def _size(file: File) -> str | None:
    return None if file.bytes is None else str(file.bytes)


def _media_type(path: str) -> str:
    """The media type by the name's suffix; without a suffix the file counts as text."""
    suffix = os.path.splitext(path)[1]
    if not suffix:
        return "text/plain"
    known = terms.MEDIA.get(suffix) or TYPES.guess_type(f"a{suffix}")[0]
    return known or "application/octet-stream"


def _data_type(value: object) -> str:
    kinds = {bool: "Boolean", int: "Integer", float: "Float"}
    return kinds.get(type(value), "Text")


def _plain(value: object) -> object:
    """Numbers, switches and text as they are; anything else as JSON, or as Python writes it."""
    if isinstance(value, bool | int | float | str):
        return value
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address differs every time
