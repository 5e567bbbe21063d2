"""Run records: what happened in one run of a job: when, on which machine, with how much energy.

No rule depends on a run record. Energy and GPU names are those of NVIDIA's driver (NVML), read by
the package nvidia-ml-py. AMD's GPUs are named by torch, without energy. Without either, a record
has no entries about GPUs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from ablation.provenance.files import SCHEMA_VERSION, write_json
from ablation.provenance.manifests import StaleInput
from ablation.provenance.next_actions import command_for

RunRecord = dict[str, Any]

# Environment variables that an executor sets on a rented machine: the name of the attempt in its
# ledger, and the result of `git_state` as JSON, because there is no .git folder on the machine.
ATTEMPT, GIT_STATE = "ABLATION_ATTEMPT", "ABLATION_GIT_STATE"
# The one by which a job tells its trainings and their ranks where they are shown, as JSON:
# `trackers`, `study`, the `manifest` of the job and the hash of its `fingerprint`.
TRACKING = "ABLATION_TRACKING"
# The file into which `git archive` writes the commit, because of .gitattributes.
ARCHIVED_COMMIT_FILE = ".git_archival.txt"
# Of `date`; a later time has no form as a date.
LAST_DATE = datetime.datetime.max.replace(tzinfo=datetime.UTC).timestamp()


class _Gpu(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str
    uuid: str = ""


class _Form(BaseModel):
    """What readers of a run record rely on; the entries that are not here are shown as they are."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    host: str = ""
    started: str = ""
    date: float = Field(default=0, ge=0, lt=LAST_DATE)
    seconds: float = 0
    energy_joules: float = 0
    tokens_per_second: float | None = None
    attempt: str | None = None
    git_hash: str | None = None
    resumes: list[Any] | None = None
    gpus: list[_Gpu] = []


@contextmanager
def run_record(path: str | Path, **facts: object) -> Iterator[RunRecord]:
    """Measure the block and write its run record to `path`.

    The block can add entries to the yielded mapping. No file is written if the block raises an
    error. docs/records.md describes the entries.
    """
    record: RunRecord = dict(facts)
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    with nvml_devices() as devices:
        before = _joules(devices)
        yield record
        after = _joules(devices)
        gpus = _describe_gpus(devices) or _amd_gpus()
    if before is not None and after is not None:
        gpus["energy_joules"] = round(after - before, 3)
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "started": started.isoformat(timespec="seconds"),
            "date": round(started.timestamp(), 3),
            "seconds": round(time.perf_counter() - clock, 3),
            "host": platform.node(),
            "platform": platform.platform(),
            "processor": processor_name(),
            "processors": os.cpu_count(),
            "python": sys.version.split()[0],
            "attempt": os.environ.get(ATTEMPT),
            **git_state(),
            **gpus,
            **record,
        },
    )


def run_record_path(manifest: str | Path) -> Path:
    """The path of the run record that belongs to `manifest.json` or `<name>.manifest.json`."""
    path = Path(manifest)
    return path.with_name(path.name.removesuffix("manifest.json") + "run.json")


def read_run_record(file: str | Path) -> RunRecord:
    """Read a run record. Raises StaleInput for any other content, OSError if there is no file."""
    with suppress(ValueError, RecursionError):
        record: RunRecord = json.loads(Path(file).read_text("utf-8"))
        _Form.model_validate(record)
        return record
    raise StaleInput(
        f"{file} is no run record: cut off or edited. Restore it, or make its job again: "
        f"{command_for(file)}"
    )


def sum_runs(nodes: Iterable[Mapping]) -> dict[str, Any]:
    """The machines, seconds, joules and dollars of several results together.

    Each node has `run`, its run record or None, and `attempts`, lines of a ledger. An attempt that
    several nodes have counts once, and so does the energy of a GPU that several runs shared. A sum
    without any part is None.
    """
    nodes = list(nodes)
    runs = [node["run"] for node in nodes if node["run"]]
    attempts = {line["attempt"]: line for node in nodes for line in node["attempts"]}
    sums = {
        "machines": sorted({describe_machine(run) for run in runs}),
        "runs": len(runs),
        "seconds": round(sum(run.get("seconds", 0) for run in runs), 3),
        "energy_joules": energy_of(runs),
        "attempts": len(attempts),
        "failed_attempts": sum(line.get("why") != "done" for line in attempts.values()),
        "dollars": round(sum(line.get("dollars", 0) for line in attempts.values()), 6),
    }
    return sums if attempts else sums | {"dollars": None}


def energy_of(runs: Iterable[Mapping]) -> float | None:
    """The joules of all GPUs behind run records; None if no record has any.

    A record has the energy that its GPUs used while the job ran, whatever else ran on them. So
    where several jobs shared a GPU, the power at a moment is taken to be the mean of their average
    powers, and energies of jobs that shared none are added up.
    """
    total, measured = 0.0, False
    changes: dict[str, list[tuple[float, int, float]]] = {}  # {GPU: (time, 1 or -1 job, watts)}
    for run in runs:
        joules, seconds = run.get("energy_joules"), run.get("seconds", 0)
        if joules is None:
            continue
        measured = True
        cards = [gpu["uuid"] for gpu in run.get("gpus", ()) if gpu.get("uuid")]
        if not cards or "date" not in run or seconds <= 0:
            total += joules
            continue
        watts = joules / seconds / len(cards)
        for card in cards:
            begin, end = (run["date"], 1, watts), (run["date"] + seconds, -1, -watts)
            changes.setdefault(card, []).extend((begin, end))
    for of_card in changes.values():
        of_card.sort()
        jobs, power = 0, 0.0
        for (since, more, watts), (until, _, _) in pairwise(of_card):
            jobs, power = jobs + more, power + watts
            total += (until - since) * power / jobs if jobs else 0.0
    return round(total, 3) if measured else None


# ---- the machine ----------------------------------------------------------------------------


def describe_machine(run: Mapping) -> str:
    """The host of a run record with its GPUs, or with its processor if it has none."""
    gpus = ", ".join(gpu["name"] for gpu in run.get("gpus", ()))
    return f"{run.get('host', '?')} ({gpus or run.get('processor', '?')})"


def processor_name() -> str:
    """The model name of the CPU, or the kind of machine if the CPU has no name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---- the commit -----------------------------------------------------------------------------


class GitState(TypedDict):
    """The commit that is checked out, and whether tracked files differ from it; None: unknown."""

    git_hash: str | None
    git_dirty: bool | None


def git_state(folder: str | Path = ".") -> GitState:
    """The commit in `folder` as `git_hash`; as `git_dirty`, whether tracked files differ from it.

    They are taken from the environment variable where that is set, since a rented machine or a
    folder elsewhere is no clone. In an archive or a wheel, the file that `git archive` or
    tools/wheel.py wrote names the commit, even if they lie in the repository of another project.
    None means unknown.
    """
    if elsewhere := os.environ.get(GIT_STATE):
        return json.loads(elsewhere)
    archived = Path(folder) / ARCHIVED_COMMIT_FILE
    text = archived.read_text("utf-8") if archived.is_file() else "$Format"
    if "$Format" not in text:  # with it, the file is that of a clone
        found = re.search(r"^[0-9a-f]{40}$", text, re.M)
        return {"git_hash": found and found[0], "git_dirty": None}
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return {"git_hash": commit, "git_dirty": None if changes is None else bool(changes)}
    return {"git_hash": None, "git_dirty": None}


def _git(folder: str | Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# ---- GPUs -----------------------------------------------------------------------------------


@contextmanager
def nvml_devices() -> Iterator[list]:
    """Handles of the GPUs that this process may use; an empty list without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # a missing driver or permission; then the record has nothing about GPUs
        yield []
        return
    try:
        yield _visible_devices(pynvml, os.environ)
    finally:
        pynvml.nvmlShutdown()


def _visible_devices(pynvml: ModuleType, environment: Mapping[str, str]) -> list:
    """The devices in CUDA_VISIBLE_DEVICES, by number or UUID; all if the variable is not set."""
    devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return devices
    chosen = []
    for name in filter(None, visible.split(",")):
        if name.isdigit():
            chosen += devices[int(name) : int(name) + 1]
        else:
            chosen += [d for d in devices if pynvml.nvmlDeviceGetUUID(d).startswith(name)]
    return chosen


def _joules(devices: list) -> float | None:
    """The energy that the boards have used since their driver was loaded; None if unknown."""
    if not devices:
        return None
    import pynvml

    try:
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(d) for d in devices) / 1000
    except pynvml.NVMLError:  # not supported before Volta, and for a slice of a GPU
        return None


def _amd_gpus() -> dict[str, Any]:
    """AMD's GPUs as torch for ROCm names them, if the job has imported it; no energy is known."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.version.hip or not torch.cuda.is_available():
        return {}
    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    gpus = [{"name": card.name, "memory_bytes": card.total_memory} for card in cards]
    return {"gpus": gpus, "driver": f"HIP {torch.version.hip}"}


def _describe_gpus(devices: list) -> dict[str, Any]:
    if not devices:
        return {}
    import pynvml

    try:
        gpus = [
            {
                "name": pynvml.nvmlDeviceGetName(d),
                "uuid": pynvml.nvmlDeviceGetUUID(d),
                "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(d).total,
            }
            for d in devices
        ]
        return {"gpus": gpus, "driver": pynvml.nvmlSystemGetDriverVersion()}
    except pynvml.NVMLError:
        return {}
