"""A run that was killed, and machines as it has left them. No network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from snakemake_executor_plugin_vast.driver import runs
from snakemake_executor_plugin_vast.driver.states import Places
from snakemake_executor_plugin_vast.machine import transport
from snakemake_executor_plugin_vast.money import ledger as books


class Hostile(transport.Transport):
    """A machine that answers what `answers` holds; rsync succeeds, and transfers nothing."""

    answers = {"states": {"states": []}, "snapshot": {"there": True, "parts": []}}

    def _run(self, command, data, *_):
        what = command[-1].partition("onboard.py ")[2].partition(" ")[0]
        told = json.dumps(self.answers.get(what, {})).encode()
        return subprocess.CompletedProcess(command, 0, told, b"")


class Broken(transport.Transport):
    """A machine on which every command fails with `error`."""

    error: Exception = transport.Unreachable("no answer")

    def _run(self, *_):
        raise self.error


def killed_run(folder: Path, market: str = "vast") -> tuple[runs.Run, str]:
    """A killed run, and the label of the machine that it has rented and sent a state to."""
    run = runs.Run(folder, folder / "ledger.jsonl", market, 1.0)
    label = f"{run.prefix}1-1"
    book = books.Ledger(folder / "ledger.jsonl", run.name, lambda: 0.0)
    book.write("intend", label=label, offer=1, machine=1, dph=1.0, seconds=60.0)
    (run.folder / "key").touch()
    (run.folder / "key.pub").touch()
    Places(run.folder / runs.STATES).note([f"{folder}/state/a"], label, 1e9)
    run._lock.close()
    return run, label
