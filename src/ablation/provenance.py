"""Where a number comes from: canonical JSON, code and config hashes, and manifests.

Two records a job. `manifest.json` is stable (equal work gives equal bytes) and is what later
stages take as input; `run.json` (ablation.machine) is what happened and is nobody's input.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from ablation import accepted
from ablation.atomic import atomic_path
from ablation.code_hash import code_hash

SCHEMA_VERSION = 1
WORKFLOW_COPY = "_workflow"  # beside the studies in results/: what a crate was made with, no study


class StaleInput(RuntimeError):
    """An input was not made by the current configuration and code, or its bytes have changed."""


def canonical_json(value: object) -> str:
    """`value` as JSON that does not depend on the order in which mappings were written."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: str | Path, content: bytes) -> None:
    with atomic_path(path) as scratch:
        scratch.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """Byte-stable JSON: sorted keys, two spaces, a final newline."""
    write_text(path, json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: str | Path, records: Iterable[Mapping]) -> None:
    write_text(path, "".join(canonical_json(record) + "\n" for record in records))


def read_json_lines(
    path: str | Path,
    check: Callable[[dict], object] = lambda record: None,
    appended: bool = False,
) -> list[dict]:
    """The records of a file with one JSON object a line; blank lines count for nothing.

    Lines end at "\\n" alone: JSON text may hold other line separators. Raises ValueError that names
    file and line for what is no object in UTF-8, or where `check` of a record raises one. A file
    that grows line by line, `appended`, may end in the middle of one: that is left out, and told.
    """
    records = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            record = json.loads(text)
            if not isinstance(record, dict):
                raise ValueError(f"a JSON object was expected, {text[:60]} found")
            check(record)
        except ValueError as fault:
            if appended and number == len(lines):
                warnings.warn(f"{path}, line {number}: cut off, left out", stacklevel=2)
                break
            raise ValueError(f"{path}, line {number}: {fault}") from None
        records.append(record)
    return records


# ---- what can change a result: package versions, configuration, inputs, and code ---------------


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions without the local part: torch 2.13.0+cpu and +cu130 are one release."""
    return {name: _version(name) for name in sorted(names)}


@cache  # 7 ms each, and a sweep has thousands of stamps
def _version(name: str) -> str:
    return metadata.version(name).partition("+")[0]


def stamp(
    stage: str,
    script: str | Path,
    config: Mapping,
    packages: Iterable[str],
    upstream: Mapping[str, Mapping] | None = None,
) -> dict:
    """All that can change a stage's result, as plain data whose `hash` names it.

    `upstream` maps a manifest's path to the stamp that it must carry; their hashes go into this
    one, so a stamp stands for the whole history of a result. Code that accepted.json, beside the
    script's workflow folder, calls equal to older code goes by the hash of that.
    """
    script = Path(script).resolve()
    known = accepted.read(script.parents[2])
    body = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "code": accepted.oldest(stage, code_hash(script), known),
        "config": json.loads(canonical_json(config)),
        "packages": package_versions(packages),
        "upstream": {path: s["hash"] for path, s in (upstream or {}).items()},
    }
    return {**body, "hash": sha256_text(canonical_json(body))}


def without(value: Mapping, *keys: str) -> dict:
    """A copy of a nested mapping that lacks `keys`, each a path of names joined by dots."""
    copy = json.loads(canonical_json(value))
    for key in keys:
        *path, last = key.split(".")
        inner = copy
        for name in path:
            inner = inner[name]
        del inner[last]
    return copy


# ---- manifests ---------------------------------------------------------------------------------


def visible_files(folder: str | Path) -> list[Path]:
    """Every file below `folder`, sorted, without hidden ones (.gitattributes, Snakemake's own)."""
    below = (p for p in Path(folder).rglob("*") if p.is_file())
    return sorted(p for p in below if not any(n[0] == "." for n in p.relative_to(folder).parts))


def file_table(paths: Iterable[str | Path]) -> dict[str, dict]:
    """{path: {sha256, bytes}} of files; a folder stands for every visible file below it."""
    table = {}
    for path in map(Path, paths):
        for file in visible_files(path) if path.is_dir() else [path]:
            table[file.as_posix()] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    return table


def write_manifest(
    path: str | Path,
    stamp: Mapping,
    outputs: Iterable[str | Path],
    **facts: object,
) -> None:
    """Write the stable record of a job: its stamp, hashes of inputs and outputs, and `facts`.

    Inputs are the manifests that the stamp names. Output paths are kept relative to the
    manifest's own folder, so that results can be moved.
    """
    home = Path(path).parent
    table = {os.path.relpath(file, home): entry for file, entry in file_table(outputs).items()}
    body = {
        "schema_version": SCHEMA_VERSION,
        "stamp": dict(stamp),
        "inputs": {path: sha256_file(path) for path in stamp["upstream"]},
        "outputs": table,
        **facts,
    }
    write_json(path, {**body, "sha256": _seal(body)})


def _seal(manifest: Mapping) -> str:
    """What a manifest's own `sha256` must be: a verdict on a leak is a fact without a file."""
    return sha256_text(canonical_json({k: v for k, v in manifest.items() if k != "sha256"}))


def read_inputs(stamp: Mapping, only: Container[str] | None = None) -> dict[str, dict]:
    """{path: manifest} of everything that a stage stands on, each one checked."""
    upstream = stamp["upstream"].items()
    return {path: read_manifest(path, expected, only) for path, expected in upstream}


def read_manifest(path: str | Path, expected: str, only: Container[str] | None = None) -> dict:
    """Read a manifest; check that the stamp `expected` made it and that its files are as it says.

    `only` names the outputs that matter, where others (weights) may stand elsewhere or nowhere.

    Raises StaleInput when the manifest was made by another configuration or code (a `--touch`
    cannot pass stale bytes on) or from other inputs than those that stand here now, or when a file
    is missing, has changed, or was not there before.
    """
    path = Path(path)
    manifest = _load_manifest(path)
    found = manifest["stamp"].get("hash")
    if found != expected:
        raise StaleInput(
            f"{path} was made by another configuration or code than the current one (stamp "
            f"{str(found)[:12]}, expected {expected[:12]}). {_remedy(path)}"
        )
    _check_seal(path, manifest)
    for name, sha256 in manifest["inputs"].items():
        if Path(name).is_file() and sha256_file(name) != sha256:
            raise StaleInput(f"{path} was made from another {name} than today's. {_remedy(path)}")
    verify_outputs(path, manifest, only)
    return manifest


def sealed_manifest(path: str | Path) -> dict:
    """A manifest whoever made it, whole and not edited; its files are not looked at.

    Raises StaleInput that names it otherwise.
    """
    manifest = _load_manifest(Path(path))
    _check_seal(path, manifest)
    return manifest


def _check_seal(path: str | Path, manifest: Mapping) -> None:
    if manifest.get("sha256") != _seal(manifest):
        raise StaleInput(f"{path} has been edited: its own sha256 does not fit. {_remedy(path)}")


def _load_manifest(path: Path) -> dict:
    with suppress(OSError, ValueError, TypeError, KeyError):
        manifest = json.loads(path.read_text("utf-8"))
        if all(isinstance(manifest[key], dict) for key in ("stamp", "inputs", "outputs")):
            return manifest
    raise StaleInput(f"{path} is no manifest: missing, cut off or edited. {_remedy(path)}")


def verify_outputs(path: str | Path, manifest: Mapping, only: Container[str] | None = None) -> None:
    """Raise StaleInput, naming the file, unless every output is byte for byte as recorded."""
    home, listed = Path(path).parent, manifest["outputs"]
    recorded = {n: entry for n, entry in listed.items() if only is None or n in only}
    for name, entry in recorded.items():
        file = home / name
        if not file.is_file():
            raise StaleInput(
                f"{file} is missing, but {path} lists it: it was removed, or did not travel with "
                f"`ablation push` (keep_weights). {_remedy(path)}"
            )
        size = file.stat().st_size
        if size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
            raise StaleInput(
                f"{file} has changed since {path} was written ({size} bytes now, "
                f"{entry['bytes']} then, or other content). {_remedy(path)}"
            )
    for folder in {(home / name).parent for name in recorded if "/" in name}:
        for file in visible_files(folder):
            if os.path.relpath(file, home) not in recorded:
                raise StaleInput(f"{file} is not in {path}: remove it. Or: {_remedy(path)}")


def _remedy(path: str | Path) -> str:
    return f"Restore it, or make it again: {command_for(path)}"


def command_for(path: str | Path) -> str:
    """The command that makes `path`, as it is typed in the root of the repository."""
    parts = Path(path).parts
    if "results" not in parts:
        return f"snakemake --cores all --force {path}"
    below = parts[len(parts) - parts[::-1].index("results") :]
    another = len(below) > 1 and below[0] != "micro"
    study = f" --configfile (the file of {below[0]})" if another else ""
    return f"snakemake --cores all --force {'/'.join(('results', *below))}{study}"


def processor() -> str:
    """The CPU's own name for itself, or the machine's kind where it has none."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
