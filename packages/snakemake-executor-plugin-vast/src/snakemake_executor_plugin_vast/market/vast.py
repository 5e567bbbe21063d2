"""Vast.ai: its REST API as a `protocol.Market`, each call within its documented rate limit.

The API key travels in a header. It never enters an argument, a message or an instance.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests

from ..clock import Clock
from .protocol import (
    Instance,
    LostReply,
    NoKey,
    Offer,
    OfferGone,
    Order,
    Refused,
    Requirements,
    SearchRules,
    Status,
    Unavailable,
)

URL = "https://console.vast.ai"
SECRETS = ("VAST_API_KEY", "VAST_IMAGE_LOGIN")
# Seconds between two calls, from the documentation; calls not named here are spaced by one second.
PACE = {"search": 6.0, "create": 4.5, "list": 1.0, "show": 2.0, "destroy": 3.0}
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 2.0, 60.0
# `actual_status`; every other value, and none, is a machine that is starting.
STATUS: dict[str, Status] = {
    "running": "running",
    "stopped": "stopped",
    "exited": "stopped",
    "frozen": "stopped",
    "offline": "offline",
    "unknown": "offline",
}
# What reading a row raises when a field has not the documented form.
UNREADABLE = (TypeError, ValueError, KeyError, IndexError, AttributeError)
# Parts of a status message after which a machine never starts.
FATAL = (
    "pull rate limit",
    "toomanyrequests",
    "manifest unknown",
    "manifest for",
    "unauthorized",
    "no space left",
    "oci runtime create failed",
    "could not select device driver",
    "nvidia-container-cli",
    "failed to create shim",
    "error response from daemon",
)
# Vast gives every container a key that can stop and destroy this container and nothing else.
MACHINE_CONTROL = """\
import os
import urllib.request


def call(method, body):
    url = "{url}/api/v0/instances/" + os.environ["CONTAINER_ID"] + "/"
    request = urllib.request.Request(url, body, method=method)
    request.add_header("Authorization", "Bearer " + os.environ["CONTAINER_API_KEY"])
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=30).read()


def stop():
    call("PUT", b'{{"state": "stopped"}}')


def destroy():
    call("DELETE", b"{{}}")
"""


def connect(environment: Mapping[str, str], home: Path, clock: Clock) -> Vast:
    """A client of the account whose key is in `environment` or below `home`. Raises NoKey."""
    url, login = environment.get("VAST_URL"), environment.get("VAST_IMAGE_LOGIN", "")
    return Vast(find_key(environment, home), url, clock, image_login=login)


def find_key(environment: Mapping[str, str], home: Path) -> str:
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
        f"no Vast.ai key in VAST_API_KEY, nor in {named}. Create one at "
        "https://console.vast.ai/manage-keys/ and put it in one of these places."
    )


def read_offer(raw: Mapping[str, Any]) -> Offer:
    """An offer from a row of the search's answer."""

    def number(key: str) -> float:
        return float(raw.get(key) or 0.0)

    return Offer(
        id=int(raw.get("ask_contract_id") or raw["id"]),
        machine_id=int(raw.get("machine_id") or 0),
        gpu_name=str(raw.get("gpu_name") or ""),
        gpus=int(raw.get("num_gpus") or 0),
        gpu_mem_mb=number("gpu_ram"),
        mem_mb=number("cpu_ram"),
        disk_gb=number("disk_space"),
        price=number("dph_total"),
        lowest_bid=number("min_bid"),
        storage_price=number("storage_cost"),
        reliability=number("reliability2") or number("reliability"),
        location=str(raw.get("geolocation") or ""),
    )


def read_instance(raw: Mapping[str, Any]) -> Instance:
    """An instance from a row of the list. Its direct address comes before that of the proxy."""
    addresses = []
    with contextlib.suppress(*UNREADABLE):  # without a direct port there is no such entry
        port = int(raw["ports"]["22/tcp"][0]["HostPort"])
        addresses.append((str(raw["public_ipaddr"] or "").strip(), port))
    with contextlib.suppress(*UNREADABLE):
        addresses.append((str(raw["ssh_host"] or ""), int(raw["ssh_port"])))
    message = str(raw.get("status_msg") or "")
    return Instance(
        id=int(raw["id"]),
        label=str(raw.get("label") or ""),
        status=STATUS.get(raw.get("actual_status") or "", "starting"),
        message=message,
        machine_id=int(raw.get("machine_id") or 0),
        price=float(raw.get("dph_total") or 0.0),
        interruptible=bool(raw.get("is_bid")),
        addresses=tuple(address for address in dict.fromkeys(addresses) if address[0]),
        failed=any(words in message.lower() for words in FATAL),
    )


def read_row(raw: Any) -> Instance | None:
    """An instance from any row of an account, which may hold other people's machines.

    A row that cannot be read is a machine that is offline, so that it can still be ended; None
    without a label, since it is none of ours.
    """
    try:
        return read_instance(raw)
    except UNREADABLE as error:
        if not (isinstance(raw, dict) and raw.get("label")):
            return None
        id = raw.get("id")
        message = f"the market's entry cannot be read: {type(error).__name__}: {error}"
        id = id if isinstance(id, int) else 0
        return Instance(id, str(raw["label"]), "offline", message, 0, 0.0, False)


def search_query(requirements: Requirements, rules: SearchRules) -> dict[str, Any]:
    """The body of a search. The type `bid` finds interruptible offers; the order has the bid."""
    query: dict[str, Any] = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": requirements.gpus},
        "reliability": {"gte": rules.reliability},
        "cuda_max_good": {"gte": rules.cuda},
        "inet_down": {"gte": rules.download_mbit},
        "disk_space": {"gte": requirements.disk_gb},
        "duration": {"gte": requirements.seconds},
        "type": "bid" if requirements.interruptible else "on-demand",
        "order": [["min_bid" if requirements.interruptible else "dph_total", "asc"]],
        "allocated_storage": requirements.disk_gb,
        "limit": 40,
    }
    if not requirements.interruptible:
        query["dph_total"] = {"lte": requirements.max_price}
    if requirements.gpu_models:
        names = [model.replace("_", " ") for model in requirements.gpu_models]
        query["gpu_name"] = {"in": names}
    if requirements.gpu_mem_mb:
        query["gpu_ram"] = {"gte": requirements.gpu_mem_mb}
    if requirements.mem_mb:
        query["cpu_ram"] = {"gte": requirements.mem_mb}
    if rules.regions:
        query["geolocation"] = {"in": list(rules.regions)}
    if rules.datacenter:
        query["datacenter"] = {"eq": True}
    return query


def order_body(order: Order, image_login: str = "") -> dict[str, Any]:
    """The body of a create."""
    body: dict[str, Any] = {
        "client_id": "me",
        "image": order.image,
        "disk": order.disk_gb,
        "label": order.label,
        "onstart": order.start_script,
        "runtype": "ssh_direc ssh_proxy",
        "target_state": "running",
        "cancel_unavail": True,
    }
    if order.bid is not None:
        body["price"] = order.bid
    return body | ({"image_login": image_login} if image_login else {})


class Vast:
    """The calls of the API."""

    def __init__(
        self,
        key: str,
        url: str | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        image_login: str = "",
    ) -> None:
        self.url = (url or URL).rstrip("/")
        self.clock, self.jitter, self.image_login = clock or Clock(), jitter, image_login
        self._key, self._local = key, threading.local()
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}  # endpoint: when its next call may be made

    @property
    def machine_control(self) -> str:
        return MACHINE_CONTROL.format(url=self.url)

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        query = search_query(requirements, rules)
        found = self._repeat("search", "POST", "/api/v0/bundles/", query).get("offers") or []
        return [read_offer(raw) for raw in found]

    def create(self, offer: Offer, order: Order) -> int:
        body = order_body(order, self.image_login)
        made = self._call("create", "PUT", f"/api/v0/asks/{offer.id}/", body)
        if not made.get("new_contract"):
            raise LostReply(self._clean(f"create on offer {offer.id} answered {made}"))
        return int(made["new_contract"])

    def instances(self) -> list[Instance]:
        found: list[Instance] = []
        after = None
        while True:
            query = {"limit": 25} | ({"after_token": after} if after else {})
            page = self._repeat("list", "GET", "/api/v1/instances/", query)
            rows = page.get("instances")
            if not isinstance(rows, list):
                raise Unavailable(f"GET /api/v1/instances/: a list was expected: {str(page)[:300]}")
            found += [row for row in map(read_row, rows) if row]
            after = page.get("next_token")
            if not after:
                return found

    def instance(self, id: int) -> Instance | None:
        try:
            raw = self._repeat("show", "GET", f"/api/v0/instances/{id}/", {"owner": "me"})
        except OfferGone:
            return None
        return read_row(raw["instances"]) if raw.get("instances") else None

    def destroy(self, id: int) -> None:
        with contextlib.suppress(OfferGone):
            self._call("destroy", "DELETE", f"/api/v0/instances/{id}/", {})

    def start(self, id: int) -> None:
        self._repeat("change", "PUT", f"/api/v0/instances/{id}/", {"state": "running"})

    def reboot(self, id: int) -> None:
        self._repeat("reboot", "PUT", f"/api/v0/instances/reboot/{id}/", {})

    def attach_key(self, id: int, public_key: str) -> None:
        self._repeat("attach", "POST", f"/api/v0/instances/{id}/ssh/", {"ssh_key": public_key})

    def _repeat(
        self, endpoint: str, method: str, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
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

    def _call(self, endpoint: str, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._take_turn(endpoint)
        what = f"{method} {path}"
        unanswered = LostReply if endpoint == "create" else Unavailable
        sent: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        try:
            reply = self._session().request(method, self.url + path, timeout=(10, 30), **sent)
        except requests.RequestException as error:
            raise unanswered(self._clean(f"{what}: {type(error).__name__}")) from None
        text = self._clean(reply.text)[:300]  # cleaned first: a key cut in two is not found
        if reply.status_code in (404, 410):
            raise OfferGone(f"{what}: {reply.status_code} {text}")
        if reply.status_code == 429:
            self._put_off(endpoint)
            raise Unavailable(f"{what}: 429 {text}")
        if reply.status_code >= 500:
            raise unanswered(f"{what}: {reply.status_code} {text}")
        if reply.status_code >= 400:
            raise Refused(f"{what}: {reply.status_code} {text}")
        try:
            answer: dict[str, Any] = reply.json()
        except ValueError:
            raise unanswered(f"{what}: no JSON: {text}") from None
        if answer.get("success") is False:
            raise Refused(f"{what}: {text}")
        return answer

    def _session(self) -> requests.Session:
        """One for each thread, since sessions are not safe to share."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
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
            self._free_at[endpoint] = turn + PACE.get(endpoint, 1.0)
        self.clock.wait(turn - now)

    def _put_off(self, endpoint: str) -> None:
        """Delay the next call as the documentation demands after a 429."""
        with self._lock:
            later = self.clock.now() + 3 * PACE.get(endpoint, 1.0)
            self._free_at[endpoint] = max(later, self._free_at.get(endpoint, later))

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "<key>")
