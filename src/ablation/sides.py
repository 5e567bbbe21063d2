"""What `ablation diff` compares: results in a folder, results that were pushed, or a commit."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ablation.accepted import SCRIPTS, oldest, read, script_of
from ablation.code_hash import code_hash
from ablation.layers import merge, read_layer, resolve
from ablation.machine import run_of
from ablation.provenance import WORKFLOW_COPY, sealed_manifest, sha256_file, visible_files
from ablation.store import Store

SMALL = ("manifest.json", "run.json", "samples.parquet")  # what of a push is brought to compare


class NothingToCompare(ValueError):
    """A side is neither results, nor a push, nor a commit; the message says what was expected."""


@dataclass
class Side:
    """Everything by name: {stage: ...}, {path within the study: ...}, {package: version}."""

    name: str
    config: dict[str, dict] = field(default_factory=dict)  # {result: {dotted key: value}}
    code: dict[str, set[str]] = field(default_factory=dict)  # {stage: hashes}
    packages: dict[str, set[str]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)  # {file: sha256}
    hardware: dict[str, set[str]] = field(default_factory=dict)  # {what: values}
    outputs: dict[str, dict] = field(default_factory=dict)  # {result: {file: sha256}}
    manifests: dict[str, dict] = field(default_factory=dict)  # {result: manifest}
    home: Path | None = None  # where results and their samples stand; None of a commit


@contextmanager
def side(name: str, study: str | None, configfile: str | None) -> Iterator[Side]:
    """`name` as a folder of results, else a push (URI or URI@SNAPSHOT), else a commit.

    Raises NothingToCompare for anything else, StaleInput for an edited manifest, StoreError.
    """
    folder, (uri, snapshot) = Path(name), _split(name)
    with TemporaryDirectory(prefix="ablation-") as scratch:
        if folder.is_dir() and any(folder.rglob("*manifest.json")):
            yield of_results(name, _study_folder(folder))
        elif "://" in uri or (Path(uri) / "snapshots").is_dir():
            yield of_results(name, _brought(uri, study, snapshot or None, Path(scratch)))
        elif _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
            yield _of_commit(name, configfile, Path(scratch))
        else:
            raise NothingToCompare(
                f"{name}: no folder with results, no store of pushes (URI, or URI@SNAPSHOT) and no "
                "commit"
            )


def _split(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*)@([0-9a-f]{4,64})", name)
    return (found[1], found[2]) if found else (name, "")


def _study_folder(folder: Path) -> Path:
    """`results/micro` of itself, or the one study in `results`."""
    if any(folder.glob("*manifest.json")) or any(folder.glob("stage*")):
        return folder
    folders = (f for f in folder.iterdir() if f.is_dir() and f.name != WORKFLOW_COPY)
    inside = [f for f in folders if any(f.rglob("*manifest.json"))]
    if len(inside) != 1:
        names = ", ".join(f.name for f in inside)
        raise NothingToCompare(f"{folder} holds {len(inside)} studies ({names}): name one")
    return inside[0]


def _brought(uri: str, study: str | None, snapshot: str | None, scratch: Path) -> Path:
    """The records and samples of a push in a folder of their own, every byte verified."""
    store = Store(uri)
    study = study or _only_study(store)
    files = store.snapshot(study, snapshot)["files"]
    small = {p: e["sha256"] for p, e in files.items() if p.endswith(SMALL) and ".." not in p}
    store.fetch({scratch / path: sha256 for path, sha256 in small.items()}, "")
    return scratch / "results" / study


def _only_study(store: Store) -> str:
    studies = store.studies()
    if len(studies) != 1:
        raise NothingToCompare(
            f"{store.uri} holds {len(studies)} studies ({', '.join(studies)}): name one with "
            "--study"
        )
    return studies[0]


# ---- results ------------------------------------------------------------------------------------


def of_results(name: str, home: Path) -> Side:
    found = Side(name, home=home)
    for path in sorted(home.rglob("*manifest.json")):
        manifest = sealed_manifest(path)
        stamp, key = manifest["stamp"], path.relative_to(home).as_posix()
        found.manifests[key] = manifest
        found.config[key] = dict(flat(stamp["config"]))
        found.code.setdefault(stamp["stage"], set()).add(stamp["code"])
        for package, version in stamp["packages"].items():
            found.packages.setdefault(package, set()).add(version)
        found.outputs[key] = {n: e["sha256"] for n, e in manifest["outputs"].items()}
        if stamp["stage"].startswith(("base", "fetch", "generate")):
            for file, sha256 in found.outputs[key].items():
                found.data[os.path.relpath(path.parent / file, home)] = sha256
            found.data |= {n: e.get("sha256", "") for n, e in manifest.get("files", {}).items()}
        _hardware(found, manifest, run_of(path))
    return found


def _hardware(found: Side, manifest: Mapping, file: Path) -> None:
    if "circumstances" not in manifest and "train_leaks" not in manifest:
        return  # tables do not depend on it
    try:
        run = json.loads(file.read_text())
    except (OSError, ValueError):
        run = {}
    facts = {key: run.get(key) for key in ("processor", "driver", "python", "platform")}
    facts["gpus"] = ", ".join(gpu["name"] for gpu in run.get("gpus", ())) or None
    packages = manifest["stamp"]["packages"]
    facts |= {k: v for k, v in manifest.get("circumstances", {}).items() if k not in packages}
    for key, value in facts.items():
        if value is not None:
            found.hardware.setdefault(key, set()).add(str(value))


# ---- commits ------------------------------------------------------------------------------------


def _of_commit(name: str, configfile: str | None, scratch: Path) -> Side:
    """Code by stage, the study's values, pins and data files of a commit; it holds no results."""
    archive = subprocess.run(["git", "archive", name], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(scratch)], input=archive, check=True)
    found, known = Side(name), read(scratch)
    package = scratch / "src/ablation"
    scripts = {file.stem for file in (scratch / "workflow/scripts").glob("*.py")}
    for stage in sorted({*SCRIPTS, *scripts - {*SCRIPTS.values()}}):
        script = scratch / script_of(stage)
        if script.is_file():
            found.code[stage] = {oldest(stage, code_hash(script, package), known)}
    file = scratch / (configfile or "config/default.yaml")
    if not file.is_file():
        raise NothingToCompare(
            f"commit {name} has no {configfile or 'config/default.yaml'}: name a study's file of "
            "that commit by --configfile"
        )
    values = resolve(merge({}, read_layer(file).values), scratch / "config").values
    found.config["the study"] = dict(flat(values))
    for pins in ("requirements.txt", "requirements-torch.txt"):
        text = (scratch / pins).read_text() if (scratch / pins).is_file() else ""
        for package_name, version in re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.M):
            found.packages.setdefault(package_name, set()).add(version)
    for folder in ("resources", "config/tasks"):
        for path in visible_files(scratch / folder):
            found.data[path.relative_to(scratch).as_posix()] = sha256_file(path)
    return found


def _git(*arguments: str) -> bool:
    try:
        return subprocess.run(["git", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False


def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, plain value) of a nested mapping; lists are values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
