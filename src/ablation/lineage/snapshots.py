"""Snapshots, which `ablation diff` compares: results in a folder, a push, or a commit."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from ablation.config.interventions import KINDS, modules_of
from ablation.config.merging import DEFAULT, merge, read_config_file, resolve
from ablation.data.generation.rows import ROWS
from ablation.provenance.accepted import oldest_equal_code, read_accepted
from ablation.provenance.code_hash import ROOT, code_hash, has_module
from ablation.provenance.files import sha256_file, visible_files
from ablation.provenance.manifests import WORKFLOW_COPY, StaleInput, load_manifest
from ablation.provenance.run_records import read_run_record, run_record_path
from ablation.remote.archive import is_archive, open_store
from ablation.remote.snapshot import read_snapshot
from ablation.vocabulary.optimizers import OPTIMIZERS, unused_modules
from ablation.vocabulary.stages import STAGES, script_of, stages_of

# The files of a push that are fetched for a comparison; judgements of texts need no texts.
SMALL_FILES = ("manifest.json", "run.json", "evaluation.json", "samples.parquet", ROWS)


class NothingToCompare(ValueError):
    """A name is neither results, nor a push, nor a commit; the message says what was expected."""


@dataclass
class Snapshot:
    """A study at one moment.

    A result is named by the path of its manifest within the study.
    """

    name: str
    config: dict[str, dict] = field(default_factory=dict)  # {result: {dotted key: value}}
    code: dict[str, set[str]] = field(default_factory=dict)  # {stage: hashes}
    packages: dict[str, set[str]] = field(default_factory=dict)  # {package: versions}
    data: dict[str, str] = field(default_factory=dict)  # {file: sha256}
    hardware: dict[str, set[str]] = field(default_factory=dict)  # {property: values}
    outputs: dict[str, dict] = field(default_factory=dict)  # {result: {file: sha256}}
    manifests: dict[str, dict] = field(default_factory=dict)  # {result: manifest}
    home: Path | None = None  # folder of the results and sample rows; None for a commit


@contextmanager
def open_snapshot(name: str, study: str | None, configfile: str | None) -> Iterator[Snapshot]:
    """Open a folder of results, or a push (URI or URI@SNAPSHOT), or a commit, in this order.

    `study` chooses a study of a folder or store; `configfile` is the file of a study in a commit.
    Raises NothingToCompare for anything else, StaleInput for an edited manifest, and StoreError.
    """
    folder, (uri, push) = Path(name), _split(name)
    with TemporaryDirectory(prefix="ablation-") as scratch:
        if folder.is_dir() and any(folder.rglob("*manifest.json")):
            chosen = folder / study if study and (folder / study).is_dir() else folder
            yield read_results(name, study_folder(chosen))
        elif "://" in uri or (Path(uri) / "snapshots").is_dir() or is_archive(uri):
            yield read_results(name, _fetch_push(uri, study, push or None, Path(scratch)))
        elif _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
            yield _read_commit(name, configfile, Path(scratch))
        else:
            raise NothingToCompare(
                f"{name} is no folder with results, no store of pushes (URI, or URI@SNAPSHOT) and "
                "no commit"
            )


def _split(name: str) -> tuple[str, str]:
    """(URI, start of the snapshot's hash, or an empty text) of a push."""
    found = re.fullmatch(r"(.*)@([0-9a-f]{4,64})", name)
    return (found[1], found[2]) if found else (name, "")


def study_folder(folder: Path) -> Path:
    """The folder of a study: `folder` itself, or the only study in it.

    Raises NothingToCompare if `folder` holds several studies.
    """
    if any(folder.glob("*manifest.json")) or any(folder.glob("stage*")):
        return folder
    folders = (f for f in folder.iterdir() if f.is_dir() and f.name != WORKFLOW_COPY)
    inside = [f for f in folders if any(f.rglob("*manifest.json"))]
    if len(inside) != 1:
        names = ", ".join(f.name for f in inside)
        raise NothingToCompare(f"{folder} holds {len(inside)} studies ({names}): name one")
    return inside[0]


def _fetch_push(uri: str, study: str | None, push: str | None, scratch: Path) -> Path:
    """Fetch the records and sample rows of a push into `scratch`, with every hash verified."""
    with open_store(uri) as store:
        study = study or store.only_study()
        files = read_snapshot(store, study, push)["files"]
        small = {path: e["sha256"] for path, e in files.items() if path.endswith(SMALL_FILES)}
        store.fetch({scratch / path: sha256 for path, sha256 in small.items()}, "")
    return scratch / "results" / study


# ---- results ------------------------------------------------------------------------------------


def read_results(name: str, home: Path) -> Snapshot:
    """The snapshot of the results in the folder `home` of a study. Raises StaleInput."""
    found = Snapshot(name, home=home)
    for path in sorted(home.rglob("*manifest.json")):
        manifest = load_manifest(path)
        fingerprint, key = manifest["fingerprint"], path.relative_to(home).as_posix()
        found.manifests[key] = manifest
        found.config[key] = dict(flat(fingerprint["config"]))
        found.code.setdefault(fingerprint["stage"], set()).add(fingerprint["code"])
        for package, version in fingerprint["packages"].items():
            found.packages.setdefault(package, set()).add(version)
        found.outputs[key] = {n: e["sha256"] for n, e in manifest["outputs"].items()}
        if _holds_data(fingerprint["stage"]):
            for file, sha256 in found.outputs[key].items():
                found.data[os.path.relpath(path.parent / file, home)] = sha256
            found.data |= {n: e.get("sha256", "") for n, e in manifest.get("files", {}).items()}
        _hardware(found, manifest, run_record_path(path))
    return found


def _holds_data(stage: str) -> bool:
    """Whether a stage makes the base or data, whose files are compared by hash."""
    return stage in stages_of(STAGES["base"].group)


def _hardware(found: Snapshot, manifest: Mapping, file: Path) -> None:
    if "circumstances" not in manifest and "train_leaks" not in manifest:
        return  # a table does not depend on the hardware
    try:
        run = read_run_record(file)
    except (OSError, StaleInput):
        run = {}
    facts = {key: run.get(key) for key in ("processor", "driver", "python", "platform")}
    facts["gpus"] = ", ".join(gpu["name"] for gpu in run.get("gpus", ())) or None
    packages = manifest["fingerprint"]["packages"]
    facts |= {k: v for k, v in manifest.get("circumstances", {}).items() if k not in packages}
    for key, value in facts.items():
        if value is not None:
            found.hardware.setdefault(key, set()).add(str(value))


# ---- commits ------------------------------------------------------------------------------------


def _read_commit(name: str, configfile: str | None, scratch: Path) -> Snapshot:
    """The code of each stage, the configuration, packages and data files of a commit."""
    archive = subprocess.run(["git", "archive", name], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(scratch)], input=archive, check=True)
    found, known = Snapshot(name), read_accepted(scratch)
    package = scratch / "src/ablation"
    # The code hash of a training includes only the optimizer in use, so there is one for each.
    unused = {unused_modules({"recipe": {"optimizer": optimizer}}) for optimizer in OPTIMIZERS}
    for stage in STAGES.values():
        script = scratch / script_of(stage.name)
        if script.is_file():
            runs_model = stage.kind in ("training", "scoring")
            variants = product(
                unused if stage.kind == "training" else [frozenset[str]()],
                _kinds(package) if runs_model else [frozenset[str]()],
            )
            codes = {code_hash(script, package, *variant) for variant in variants}
            found.code[stage.name] = {oldest_equal_code(stage.name, code, known) for code in codes}
    file = scratch / (configfile or "config/default.yaml")
    if not file.is_file():
        raise NothingToCompare(
            f"commit {name} has no {configfile or 'config/default.yaml'}: name a study's file of "
            "that commit by --configfile"
        )
    defaults = scratch / "config"
    if not (defaults / DEFAULT).is_file():  # a study's folder has those of the installed workflow
        defaults = ROOT / "config"
    values = resolve(merge({}, read_config_file(file).values), defaults).values
    found.config["the study"] = dict(flat(values))
    for pins in ("requirements.txt", "requirements-torch.txt"):
        text = (scratch / pins).read_text("utf-8") if (scratch / pins).is_file() else ""
        for package_name, version in re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.M):
            found.packages.setdefault(package_name, set()).add(version)
    for folder in ("resources", "config/tasks"):
        for path in visible_files(scratch / folder):
            found.data[path.relative_to(scratch).as_posix()] = sha256_file(path)
    return found


def _kinds(package: Path) -> list[frozenset[str]]:
    """What the code hash of a job adds for each kind of intervention, and for none."""
    modules = [modules_of({"kind": kind}) for kind in KINDS]
    known = [m for m in modules if m and all(has_module(name, package) for name in m)]
    return [frozenset(), *known]


def _git(*arguments: str) -> bool:
    """Whether a git command succeeds."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False


def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) for each value of a nested mapping; lists count as values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
