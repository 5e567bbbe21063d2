"""How clients of markets call: paced, repeated where that is safe, the key in a header alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, TypeVar

import requests

from ..clock import Clock
from .protocol import Instance, MachineId, Offer, Unavailable

T = TypeVar("T")
AGENT = f"snakemake-executor-plugin-vast/{version('snakemake-executor-plugin-vast')}"
RATE = 0.9  # of the documented rates, since requests do not all take the same time to arrive
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 2.0, 60.0
# What reading an answer raises when a field has not the documented form.
UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class Client:
    """Calls with the account's key, which enters no message. Threads may share it."""

    PACE: Mapping[str, float] = {}  # seconds between two calls of an endpoint; others: one
    CONTROL = ""  # the source of `Market.machine_control`, with gaps for url and agent

    def __init__(
        self,
        key: str,
        url: str,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.url = url.rstrip("/")
        self.clock, self.jitter = clock or Clock(), jitter
        self._key, self._secrets, self._local = key, (key, *secrets), threading.local()
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}  # endpoint: when its next call may be made

    def machine_control(self, offer: Offer | None = None) -> str:
        return self.CONTROL.format(url=self.url, agent=AGENT)

    def _send(self, method: str, path: str, **sent: Any) -> requests.Response:
        # A redirect could turn an order into a search, or take the key to another host.
        return self._session().request(
            method, self.url + path, timeout=(10, 30), allow_redirects=False, **sent
        )

    def _repeated(self, call: Callable[[], T]) -> T:
        """What `call` returns once the market is available; only for what may be done twice."""
        wait = FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return call()
            except Unavailable:
                if not left:
                    raise
            self.clock.wait(wait * (1 + self.jitter()))
            wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("unreachable")

    def _session(self) -> requests.Session:
        """One for each thread, since sessions are not safe to share."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.headers["User-Agent"] = AGENT
            session.auth = self._sign  # also keeps requests from reading ~/.netrc
            self._local.session = session
        found: requests.Session = self._local.session
        return found

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _take_turn(self, endpoint: str) -> None:
        """Wait until the endpoint may be called again."""
        with self._lock:
            now = self.clock.now()
            turn = max(now, self._free_at.get(endpoint, now))
            self._free_at[endpoint] = turn + self.PACE.get(endpoint, 1.0) / RATE
        self.clock.wait(turn - now)

    def _put_off(self, endpoint: str, seconds: float) -> None:
        """Delay the next call, since the market has refused this one as too early."""
        with self._lock:
            later = self.clock.now() + seconds
            self._free_at[endpoint] = max(later, self._free_at.get(endpoint, later))

    def _clean(self, text: str) -> str:
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "<key>")
        return text


def unreadable(id: MachineId, label: Any, error: Exception) -> Instance:
    """What stands for a row of the list that cannot be read: it is offline, and can be ended."""
    message = f"the market's entry cannot be read: {type(error).__name__}: {error}"
    return Instance(id, str(label or ""), "offline", message, 0, 0.0, False)


def dollars(value: Any) -> float | None:
    """An amount in an answer; None if it is anything else, such as 1e999."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
    return float(value) if good else None


def json_object(reply: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty if it is anything else, such as HTML or a list."""
    try:
        found = reply.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def list_in(answer: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """The list in an answer. Raises Unavailable if there is none."""
    found = answer.get(key)
    if not isinstance(found, list):
        raise Unavailable(f"{what}: a list was expected: {str(answer)[:300]}")
    return found
