"""What shall go wrong: planned ahead, used up one by one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

# Where a fault of the API can strike; "api" is any of them.
POINTS = (
    *("search", "create", "get", "list", "state", "destroy", "ssh", "bid", "reboot", "logs"),
    *("keys", "key_list", "user", "execute", "recycle", "deposit", "invoices", "api"),
)
# effect -> what it does. The first group strikes at a point of the API, the second at "boot".
API_EFFECTS = {
    "status": "answer with this HTTP status and do nothing",
    "error": "the `error` of that answer",
    "msg": "the `msg` of that answer",
    "text": "plain text instead of JSON, or HTML if it begins with <",
    "location": "the address of a redirect (with a status from 301 to 308)",
    "drop": "cut the connection and do nothing",
    "lose_reply": "do it, then cut the connection",
    "taken": "somebody else has rented the offer in the meantime (create)",
    "dearer": "the contract costs so many times the price of its offer (create)",
    "double": "accept it though the offer is rented; the contract never boots (create)",
    "odd": "show rows of other people, nulls, and the ports of a machine as a list (list)",
    "lag": "show what was there this many seconds ago (list)",
}
BOOT_EFFECTS = {
    "slow": "take so many seconds more to load",
    "lacks": "the image has not these programs, until apt-get installs them",
    "apt_lock": "apt-get refuses for so many seconds (with lacks)",
    "stuck": "never get past this status: 'null', 'created' or 'loading'",
    "status_msg": "end with this message instead of running",
    "status": "the status that goes with status_msg (default: loading)",
    "ssh_refused": "ssh refuses for so many seconds after running",
    "disk_mb": "a disk of this many MB only",
    "clock_offset": "the machine's clock is off by so many seconds",
}
MESSAGES = {
    403: ("auth_error", "Not permitted with this key"),
    404: ("auth_error", "Invalid user key"),
    410: ("deprecated_endpoint", "This endpoint is deprecated."),
    429: (None, "API requests too frequent: endpoint threshold=1.0"),
    500: ("server_error", "Internal server error"),
    502: (None, "Bad Gateway"),
    503: (None, "Service Unavailable"),
}


@dataclass
class Fault:
    point: str
    effect: dict
    times: int | None  # None: until it is cleared
    until: float | None  # or until this moment of the service's clock


class Plan:
    """The faults that are still to come, in the order in which they were planned."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, point: str, times: int | None, seconds: float | None, effect: dict) -> None:
        if point not in (*POINTS, "boot"):
            raise ValueError(f"no such point: {point!r}; there are {', '.join(POINTS)}, boot")
        known = BOOT_EFFECTS if point == "boot" else API_EFFECTS
        if not effect or set(effect) - set(known):
            raise ValueError(f"effects at {point!r} are {', '.join(known)}; found {effect}")
        with self._lock:
            until = None if seconds is None else self._now() + seconds
            self._faults.append(Fault(point, effect, None if seconds else times, until))

    def clear(self, point: str | None = None) -> None:
        with self._lock:
            self._faults = [f for f in self._faults if point not in (None, f.point)]

    def take(self, *points: str) -> dict:
        """The effect of the next fault planned for one of `points`, or {}; counted as used."""
        with self._lock:
            now = self._now()
            self._faults = [f for f in self._faults if f.until is None or now < f.until]
            for fault in self._faults:
                if fault.point in points:
                    if fault.times is not None:
                        fault.times -= 1
                        if not fault.times:
                            self._faults.remove(fault)
                    return dict(fault.effect)
        return {}


def answer(effect: dict) -> tuple[int, dict | str]:
    """Status and body of a planned error; where the service answers in plain text, so do we."""
    status = effect["status"]
    error, msg = MESSAGES.get(status, ("error", f"HTTP {status}"))
    error, msg = effect.get("error", error), effect.get("msg", msg)
    if "text" in effect or error is None:
        return status, effect.get("text", msg)
    return status, {"success": False, "error": error, "msg": msg}
