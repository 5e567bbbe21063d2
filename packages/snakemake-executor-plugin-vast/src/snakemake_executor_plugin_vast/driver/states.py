"""The states of jobs: which machine has the newest version of each, and how it is saved."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from ..machine import onboard
from ..machine.transport import Transport


class Places:
    """Which machine has the newest version of each state, by the machine's label.

    `file` outlives this process. After a kill it tells which folders a machine may write here.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._lock = file, threading.Lock()
        self._places: dict[str, str] = json.loads(file.read_text()) if file.is_file() else {}

    def of(self, state: str) -> str | None:
        """The machine that has the newest version of a state."""
        return self._places.get(state)

    def at(self, label: str) -> list[str]:
        """The states whose newest version is on a machine."""
        return [state for state, place in self._places.items() if place == label]

    def note(self, states: Iterable[str], label: str) -> None:
        """Write down that a job on this machine continues these states."""
        with self._lock:
            places = self._places | dict.fromkeys(states, label)
            if places != self._places:
                onboard.write(str(self.file), json.dumps(places))
                self._places = places


def save_state(
    connection: Transport,
    folder: str,
    state: str,
    save: Callable[[str, str, list[str]], None] | None = None,
) -> bool:
    """Save a state from the machine, on this computer or by `save`; whether there was one.

    The local state is complete at any moment.
    """
    taken = connection.ask("snapshot", folder, {"state": state}, 4 * connection.timeout)
    if taken["there"]:
        copy = f"{state.rstrip('/')}.home"
        (save or connection.pull_state)(copy, state, taken["parts"])
        # Without this, links would keep removed files on the machine's disk.
        connection.command(f"rm -rf {shlex.quote(copy)}")
    return bool(taken["there"])
