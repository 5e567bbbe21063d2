"""The metadata that Snakemake keeps about outputs, without which it would make them again.

Each output has one JSON file in .snakemake/metadata, whose name is the output in base64.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ablation.provenance.files import write_text
from ablation.remote.snapshot import CHOOSE_ANOTHER, COMMON_TABLE
from ablation.remote.store import Store, StoreError

METADATA = Path(".snakemake/metadata")


def _is_plain(text: str) -> str:
    """`text`, unless it would end a script of the page that `snakemake --report` writes."""
    if re.search("</|<!--", text):
        raise ValueError("it has markup")
    return text


def _is_environment(text: str) -> str:
    """`text`, if it is YAML in base64 without tags, by which `snakemake --report` would run code.

    Aliases could repeat a text until the memory is full.
    """
    try:
        for event in yaml.parse(b64decode(text).decode(), yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                raise ValueError("it has tags or aliases")
            _is_plain(getattr(event, "value", ""))
    except yaml.YAMLError as error:
        raise ValueError("it is no YAML") from error
    return text


Time = Annotated[float, Field(ge=0, lt=1e11)]
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Record(BaseModel):
    """What Snakemake reads of its metadata. Another type would end Snakemake at each start."""

    model_config = ConfigDict(strict=True)

    rule: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    input: list[str] | None = None
    log: list[str] | None = None
    shellcmd: str | None = None
    params: list[str] | None = None
    code: str | None = None
    record_format_version: Number = 0
    conda_env: Annotated[str, AfterValidator(_is_environment)] | None = None
    container_img_url: Annotated[str, AfterValidator(_is_plain)] | None = None
    software_stack_hash: str | None = None
    job_hash: Number | None = None
    starttime: Time | None = None
    endtime: Time | None = None
    incomplete: bool | None = None
    external_jobid: str | None = None
    input_checksums: dict[str, str] | None = None


def metadata_file(output: str) -> Path:
    """The file with the metadata of an output.

    Like Snakemake, this splits a name that is too long for the file system into folders.
    """
    length = (os.pathconf(METADATA if METADATA.is_dir() else ".", "PC_NAME_MAX") or 255) - 1
    name, folder = _encoded(output), METADATA
    while len(name) > length:
        folder, name = folder / f"@{name[:length]}", name[length:]
    return folder / name


def metadata_of(study: str, files: Iterable[str]) -> dict[str, str]:
    """{name of a file in METADATA: its text} for files of a study and the folders they are in."""
    found = [file for output in _outputs(study, files) if (file := metadata_file(output)).is_file()]
    return {file.relative_to(METADATA).as_posix(): file.read_text("utf-8") for file in found}


def fetch_metadata(store: Store, study: str, snapshot: Mapping) -> dict[str, str]:
    """{output: its metadata} of a snapshot.

    Raises StoreError unless each name is that of an output that the snapshot lists, and each text
    is a record as Snakemake writes it.
    """
    outputs = {
        _encoded(output): output
        for output in _outputs(study, [*snapshot["files"], *snapshot["left_out"]])
    }
    content = store.read(snapshot["notes"]["sha256"], "Snakemake's metadata")
    try:
        texts = TypeAdapter(dict[str, str]).validate_json(content)
        # Names are split into folders as the file system of the machine that pushed required.
        joined = {re.sub("@([^/]+)/", r"\1", name): text for name, text in texts.items()}
        found = {outputs[name]: text for name, text in joined.items()}
    except (ValidationError, KeyError) as error:
        wrong = repr(error.args[0]) if isinstance(error, KeyError) else "something else than texts"
        raise StoreError(
            f"{store.uri}: Snakemake's metadata has {wrong}, which belongs to no file of the "
            f"snapshot. {CHOOSE_ANOTHER}"
        ) from None
    for output, text in found.items():
        _refuse_other_records(store, output, text)
    return found


def _refuse_other_records(store: Store, output: str, text: str) -> None:
    try:
        _Record.model_validate(json.loads(text))  # by the parser of Snakemake
        return
    except ValidationError as error:
        wrong = next(iter(error.errors()[0]["loc"]), "form")
    except (ValueError, RecursionError):
        wrong = "form"
    raise StoreError(
        f"{store.uri}: Snakemake's metadata of {output} is not as Snakemake writes it: its {wrong} "
        f"is wrong. {CHOOSE_ANOTHER}"
    )


def write_metadata(texts: Mapping[str, str]) -> None:
    """Write {output: its metadata} where Snakemake reads it."""
    # Without this folder, Snakemake would convert the metadata from an older format.
    (METADATA.parent / "incomplete").mkdir(parents=True, exist_ok=True)
    METADATA.mkdir(exist_ok=True)
    for output, text in texts.items():
        path = metadata_file(output)
        if not path.is_file() or path.read_text("utf-8") != text:
            write_text(path, text)


def _encoded(output: str) -> str:
    return urlsafe_b64encode(os.fsencode(output)).decode()


def _outputs(study: str, files: Iterable[str]) -> list[str]:
    """The files of a study and the folders that they are in."""
    covered = {p for file in files for p in (file, *map(str, PurePosixPath(file).parents))}
    return sorted(p for p in covered if p == COMMON_TABLE or p.startswith(f"results/{study}/"))
