"""The Vast.ai REST API: a dozen calls, typed, each within its rate limit.

What a failure means matters more than its number. `NoSuchOffer`: somebody was faster. `Refused`: it
will never work. `Unavailable`: try again. `LostReply`: whether the machine was made is not known,
and only a look at the list can tell.

The key travels in a header. It never enters an argument, a message or an instance.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import requests

from .clock import Clock

URL = "https://console.vast.ai"
# Seconds between two calls, from the documentation; what is not named may be called every second.
PACE = {"search": 6.0, "create": 4.5, "list": 1.0, "show": 2.0, "destroy": 3.0}
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 2.0, 60.0


class VastError(Exception):
    """The API said no; the message says what was asked and what came back."""


class NoKey(VastError):
    """No API key was found."""


class NoSuchOffer(VastError):
    """The offer is gone."""


class Refused(VastError):
    """The request is wrong, or not allowed: no retry will help."""


class Unavailable(VastError):
    """Too many requests, a server error, or no connection."""


class LostReply(VastError):
    """A create was sent and no answer came: the machine may exist."""


@dataclass(frozen=True)
class Offer:
    """A machine for rent. Memory in MB, disk in GB, money in dollars (storage a GB and month)."""

    id: int
    machine_id: int
    gpu_name: str
    num_gpus: int
    gpu_ram: float
    cpu_ram: float
    disk_space: float
    dph_total: float
    min_bid: float
    storage_cost: float = 0.0
    inet_up_cost: float = 0.0
    inet_down_cost: float = 0.0
    inet_down: float = 0.0
    reliability: float = 1.0
    geolocation: str = ""

    @classmethod
    def read(cls, raw: dict) -> Offer:
        def number(key, default=0.0):
            return float(raw.get(key) or default)

        return cls(
            id=int(raw.get("ask_contract_id") or raw["id"]),
            machine_id=int(raw.get("machine_id") or 0),
            gpu_name=str(raw.get("gpu_name") or ""),
            num_gpus=int(raw.get("num_gpus") or 0),
            gpu_ram=number("gpu_ram"),
            cpu_ram=number("cpu_ram"),
            disk_space=number("disk_space"),
            dph_total=number("dph_total"),
            min_bid=number("min_bid"),
            storage_cost=number("storage_cost"),
            inet_up_cost=number("inet_up_cost"),
            inet_down_cost=number("inet_down_cost"),
            inet_down=number("inet_down"),
            reliability=number("reliability2") or number("reliability"),
            geolocation=str(raw.get("geolocation") or ""),
        )


@dataclass(frozen=True)
class Instance:
    """A rented machine as the API sees it; `status` None: being provisioned."""

    id: int
    label: str
    status: str | None
    message: str
    machine_id: int
    dph_total: float
    is_bid: bool
    addresses: tuple[tuple[str, int], ...]  # direct first, then the proxy

    @classmethod
    def read(cls, raw: dict) -> Instance:
        addresses = []
        direct = (raw.get("ports") or {}).get("22/tcp") or []
        if direct and raw.get("public_ipaddr"):
            addresses.append((str(raw["public_ipaddr"]).strip(), int(direct[0]["HostPort"])))
        if raw.get("ssh_host") and raw.get("ssh_port"):
            addresses.append((str(raw["ssh_host"]), int(raw["ssh_port"])))
        return cls(
            id=int(raw["id"]),
            label=str(raw.get("label") or ""),
            status=raw.get("actual_status"),
            message=str(raw.get("status_msg") or ""),
            machine_id=int(raw.get("machine_id") or 0),
            dph_total=float(raw.get("dph_total") or 0.0),
            is_bid=bool(raw.get("is_bid")),
            addresses=tuple(dict.fromkeys(addresses)),
        )


def find_key(environment: dict[str, str], home: Path) -> str:
    """The API key: VAST_API_KEY, or the file that the official client writes. Raises NoKey."""
    if key := environment.get("VAST_API_KEY", "").strip():
        return key
    folder = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    places = [folder / "vastai" / "vast_api_key", home / ".vast_api_key"]
    for place in places:
        if place.is_file() and (key := place.read_text().strip()):
            return key
    named = " nor in ".join(map(str, places))
    raise NoKey(
        f"no Vast.ai key in VAST_API_KEY, nor in {named}. Make one under "
        "https://console.vast.ai/manage-keys/ and put it there."
    )


class Vast:
    """The calls. Those that can be repeated are, on Unavailable; `create` never is."""

    def __init__(
        self,
        key: str,
        url: str | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ):
        self.url = (url or os.environ.get("VAST_URL") or URL).rstrip("/")
        self.clock, self.jitter = clock or Clock(), jitter
        self._key, self._local = key, threading.local()
        self._lock, self._free_at = threading.Lock(), {}

    def search(self, query: dict) -> list[Offer]:
        """Offers that answer a query of `offers.query`."""
        found = self._repeat("search", "POST", "/api/v0/bundles/", query).get("offers") or []
        return [Offer.read(raw) for raw in found]

    def create(self, offer: int, body: dict) -> int:
        """Rent; the new instance's id. Raises NoSuchOffer, Refused, Unavailable or LostReply."""
        made = self._call("create", "PUT", f"/api/v0/asks/{offer}/", body)
        if not made.get("new_contract"):
            raise LostReply(self._clean(f"create on offer {offer} answered {made}"))
        return int(made["new_contract"])

    def instances(self) -> list[Instance]:
        """Every instance of the account, whatever its label."""
        found, after = [], None
        while True:
            query = {"limit": 25} | ({"after_token": after} if after else {})
            page = self._repeat("list", "GET", "/api/v1/instances/", query)
            found += [Instance.read(raw) for raw in page.get("instances") or []]
            after = page.get("next_token")
            if not after:
                return found

    def instance(self, id: int) -> Instance | None:
        """One instance, or None when it is gone."""
        try:
            raw = self._repeat("show", "GET", f"/api/v0/instances/{id}/", {"owner": "me"})
        except NoSuchOffer:
            return None
        return Instance.read(raw["instances"]) if raw.get("instances") else None

    def destroy(self, id: int) -> None:
        """Ask for the end of an instance; only the list says when it has come."""
        with contextlib.suppress(NoSuchOffer):
            self._call("destroy", "DELETE", f"/api/v0/instances/{id}/", {})

    def start(self, id: int) -> None:
        self._repeat("change", "PUT", f"/api/v0/instances/{id}/", {"state": "running"})

    def reboot(self, id: int) -> None:
        self._repeat("reboot", "PUT", f"/api/v0/instances/reboot/{id}/", {})

    def attach(self, id: int, public_key: str) -> None:
        """Let a public ssh key in."""
        self._repeat("attach", "POST", f"/api/v0/instances/{id}/ssh/", {"ssh_key": public_key})

    def _repeat(self, endpoint: str, method: str, path: str, body: dict) -> dict:
        wait = FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return self._call(endpoint, method, path, body)
            except Unavailable:
                if not left:
                    raise
            self.clock.wait(wait * (1 + self.jitter()))
            wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("unreachable")

    def _call(self, endpoint: str, method: str, path: str, body: dict) -> dict:
        self._take_turn(endpoint)
        what = f"{method} {path}"
        sent = {"params": body} if method == "GET" else {"json": body}
        try:
            reply = self._session().request(method, self.url + path, timeout=(10, 30), **sent)
        except requests.RequestException as fault:
            kind = LostReply if endpoint == "create" else Unavailable
            raise kind(self._clean(f"{what}: {type(fault).__name__}")) from None
        text = self._clean(reply.text)[:300]  # a cut key would be no key to find
        if reply.status_code in (404, 410):
            raise NoSuchOffer(f"{what}: {reply.status_code} {text}")
        if reply.status_code == 429:
            self._put_off(endpoint)
            raise Unavailable(f"{what}: 429 {text}")
        if reply.status_code >= 500:
            kind = LostReply if endpoint == "create" else Unavailable
            raise kind(f"{what}: {reply.status_code} {text}")
        if reply.status_code >= 400:
            raise Refused(f"{what}: {reply.status_code} {text}")
        try:
            answer = reply.json()
        except ValueError:
            kind = LostReply if endpoint == "create" else Unavailable
            raise kind(f"{what}: no JSON: {text}") from None
        if answer.get("success") is False:
            raise Refused(f"{what}: {text}")
        return answer

    def _session(self) -> requests.Session:
        """One a thread: sessions are not made for sharing. With an `auth`, .netrc is not read."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.auth = self._sign
            self._local.session = session
        return self._local.session

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _take_turn(self, endpoint: str) -> None:
        with self._lock:
            now = self.clock.now()
            turn = max(now, self._free_at.get(endpoint, now))
            self._free_at[endpoint] = turn + PACE.get(endpoint, 1.0)
        self.clock.wait(turn - now)

    def _put_off(self, endpoint: str) -> None:
        """The documented penalty after a 429."""
        with self._lock:
            later = self.clock.now() + 3 * PACE.get(endpoint, 1.0)
            self._free_at[endpoint] = max(later, self._free_at.get(endpoint, later))

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "<key>")


def with_prefix(instances: Iterable[Instance], prefix: str) -> list[Instance]:
    return [instance for instance in instances if instance.label.startswith(prefix)]
