"""The dead-man switch of a machine: it is seen to be armed, and hears from this computer.

Nothing else ends the machine without us.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
from collections.abc import Callable

from ..clock import Clock
from ..machine.transport import Failed, Transport, Unreachable
from .endings import Closing, Lost

FIRST = 300.0  # seconds in which a new machine must show that its switch is armed
EVERY = 5.0
LEASE = 60.0  # seconds between two signs of life


def keep_lease(touch: Callable[[], None], clock: Clock, over: threading.Event) -> None:
    """Give the switch signs of life by `touch`, from now on until `over`. For its own thread."""
    while True:
        with contextlib.suppress(Exception):  # the next one may reach the machine
            touch()
        if over.wait(clock.real(LEASE)):
            return


def fault(connection: Transport, folder: str) -> tuple[bool | None, str]:
    """Whether the switch is armed, None if that is not known now, and why it is not."""
    place = shlex.quote(folder)
    try:
        answer = json.loads(connection.command(f"python3 {place}/armed.py {place}"))
        if answer["armed"] in (True, False, None):
            return answer["armed"], str(answer["why"])[:200]
        return None, "the answer has not the expected form"
    except (Unreachable, Failed, ValueError, TypeError, KeyError, RecursionError) as error:
        return None, str(error)[:200]


def await_armed(connection: Transport, folder: str, clock: Clock, closing: threading.Event) -> None:
    """Wait until the switch of a new machine is armed. Raises Lost or Closing."""
    until = clock.now() + FIRST
    while True:
        armed, why = fault(connection, folder)
        if armed:
            return
        if clock.now() > until:
            raise Lost("disarmed", f"the dead-man switch: {why}")
        if clock.wait(EVERY, closing):
            raise Closing
