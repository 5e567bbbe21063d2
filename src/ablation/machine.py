"""Run records: what happened when a job ran, on which machine, with which energy. Nobody's input.

Energy and GPU names come from the driver (NVML), by the optional package nvidia-ml-py; without it,
or without a GPU, a record simply has no such keys.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ablation.provenance import SCHEMA_VERSION, processor, write_json

ATTEMPT = "ABLATION_ATTEMPT"  # set by an executor: the attempt's name in its ledger


@contextmanager
def run_record(path: str | Path, **facts: object) -> Iterator[dict]:
    """Time the block and write run.json: docs/records.md tells each field.

    The block may add to the yielded mapping. Nothing is written when it raises.
    """
    record: dict = dict(facts)
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    with _nvml() as devices:
        before = _energy(devices)
        yield record
        spent = _energy(devices)
        gpus = _identities(devices)
    if before is not None and spent is not None:
        gpus["energy_joules"] = round(spent - before, 3)
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "started": started.isoformat(timespec="seconds"),
            "date": round(started.timestamp(), 3),
            "seconds": round(time.perf_counter() - clock, 3),
            "host": platform.node(),
            "platform": platform.platform(),
            "processor": processor(),
            "processors": os.cpu_count(),
            "python": sys.version.split()[0],
            "attempt": os.environ.get(ATTEMPT),
            **git_state(),
            **gpus,
            **record,
        },
    )


def run_of(manifest: str | Path) -> Path:
    """The run record beside a manifest: `manifest.json`, or `<name>.manifest.json`."""
    path = Path(manifest)
    return path.with_name(path.name.removesuffix("manifest.json") + "run.json")


def git_state(folder: str | Path = ".") -> dict[str, str | bool | None]:
    """`git_hash`, the commit checked out in `folder`; `git_dirty`: tracked files differ from it.

    Both are None where there is no repository of git: a copy on a rented machine, say.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"git_hash": commit, "git_dirty": None if changes is None else bool(changes)}


def _git(folder: str | Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# ---- GPUs ---------------------------------------------------------------------------------------


@contextmanager
def _nvml() -> Iterator[list]:
    """Handles of the GPUs that this process may use; none without a driver or nvidia-ml-py."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no driver, no permission: all mean that nothing is known
        yield []
        return
    try:
        yield _visible(pynvml, os.environ)
    finally:
        pynvml.nvmlShutdown()


def _visible(pynvml, environment: Mapping[str, str]) -> list:
    """The devices that CUDA_VISIBLE_DEVICES names, by number or UUID; all where it is not set."""
    everyone = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return everyone
    chosen = []
    for name in filter(None, wanted.split(",")):
        if name.isdigit():
            chosen += everyone[int(name) : int(name) + 1]
        else:
            chosen += [d for d in everyone if pynvml.nvmlDeviceGetUUID(d).startswith(name)]
    return chosen


def _energy(devices: list) -> float | None:
    """Joules that the boards used since their driver was loaded; None where they cannot say."""
    if not devices:
        return None
    import pynvml

    try:
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(d) for d in devices) / 1000
    except pynvml.NVMLError:  # older than Volta, or a slice of a GPU
        return None


def _identities(devices: list) -> dict:
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
