"""The states of jobs: which machine has the newest version of each, and how it is saved."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..machine import onboard
from ..machine.transport import Transport
from .report import checked_parts


class Places:
    """Which machine has the newest version of each state, and how many bytes that may have.

    `file` outlives this process. After a kill it tells what a machine may write here. `earlier`
    returns the same files of runs that were killed or have left stopped machines.
    """

    def __init__(self, file: Path, earlier: Callable[[], Iterable[Path]] = lambda: ()) -> None:
        self.file, self.earlier, self._lock = file, earlier, threading.Lock()
        # For each state the machine's label, and bytes.
        self._places: dict[str, list[Any]] = json.loads(file.read_bytes()) if file.is_file() else {}

    def of(self, state: str) -> str | None:
        """The machine that has the newest version of a state."""
        return self._places[state][0] if state in self._places else None

    def at(self, label: str) -> dict[str, float]:
        """The states whose newest version is on a machine, and the bytes that each may have."""
        return {state: most for state, (place, most) in self._places.items() if place == label}

    @property
    def labels(self) -> set[str]:
        """The labels of all machines that have the newest version of a state."""
        return {label for label, _ in self._places.values()}

    def note(self, states: Iterable[str], label: str, most: float) -> None:
        """Write down that a job on this machine continues these states.

        What stopped machines of earlier runs have of them must not replace the work of this job.
        """
        states = list(states)
        self._change(dict.fromkeys(states, [label, most]))
        for file in self.earlier() if states else ():
            with suppress(OSError, ValueError):  # an earlier run must not stop this one
                Places(file).forget(states)

    def forget(self, states: Iterable[str]) -> None:
        """Write down that no machine has a newer version of these states than this computer."""
        self._change(dict.fromkeys(states))

    def _change(self, new: Mapping[str, list[Any] | None]) -> None:
        with self._lock:
            places = {state: at for state, at in {**self._places, **new}.items() if at}
            if places != self._places:
                onboard.write(str(self.file), json.dumps(places))
                self._places = places


def save_state(
    connection: Transport,
    folder: str,
    state: str,
    most: float,
    save: Callable[[str, str], None] | None = None,
) -> bool:
    """Save a state of at most `most` bytes, here or by `save`; whether there was one.

    The local state is complete at any moment.
    """
    answer = connection.ask("snapshot", folder, {"state": state}, 4 * connection.timeout)
    parts = checked_parts(answer)
    if parts is not None:
        copy = f"{state.rstrip('/')}.home"
        if save:
            save(copy, state)
        else:
            connection.pull_state(copy, state, parts, most)
        # Without this, links would keep removed files on the machine's disk.
        connection.command(f"rm -rf {shlex.quote(copy)}")
    return parts is not None
