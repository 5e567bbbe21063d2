"""RunPod: its REST API v2 as a `protocol.Market`. docs/runpod_contract.md has each field's source.

The API key travels in a header. It never enters an argument, a message or a machine.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests

from ..clock import Clock
from .http import UNREADABLE, Client, dollars, json_object, list_in, unreadable
from .protocol import (
    AccountRefused,
    Instance,
    LostReply,
    MachineId,
    MarketError,
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
from .runpod_offers import STOPPED_DISK_PRICE, disk_rate, order_body, read_offers, search_query

URL = "https://api.runpod.io"
SECRETS = ("RUNPOD_API_KEY",)
ANY = "any"  # all calls of an account share one limit: 60 a minute and 3,000 an hour
LONGEST_DELAY = 120.0  # seconds, whatever an answer demands
STATUS: dict[str, Status] = {
    "PROVISIONING": "starting",
    "STARTING": "starting",
    "RUNNING": "running",
    "EXITED": "stopped",
    "ERROR": "stopped",
}
POD = re.compile(r"[A-Za-z0-9_-]{1,64}")  # an id, which becomes part of an address
# A create is refused by the status 400 for want of machines as well as for a wrong request.
NO_CAPACITY = re.compile(
    r"no longer any instances|no instances|not enough free|have the resources|capacity|"
    r"out of stock|could not be placed|no machines?",
    re.I,
)
ADVICE = {
    401: "RunPod does not accept the API key. Check RUNPOD_API_KEY, and the key at "
    "https://console.runpod.io/user/settings",
    402: "The RunPod account has too little credit. Add some at "
    "https://console.runpod.io/user/billing",
    403: "The RunPod key may not do this. Give it the right to read and write pods at "
    "https://console.runpod.io/user/settings",
}
# RunPod gives every container the variables below, with a key for this pod alone. A start of a pod
# that runs changes nothing: it is answered by 409, and takes the same permission as a stop.
MACHINE_CONTROL = """\
import os
import urllib.error
import urllib.request


def call(method, path, body=None):
    url = "{url}/v2/pods/" + os.environ["RUNPOD_POD_ID"] + path
    key = "Bearer " + os.environ["RUNPOD_API_KEY"]
    headers = {{"Authorization": key, "Content-Type": "application/json", "User-Agent": "{agent}"}}
    request = urllib.request.Request(url, body, headers, method=method)
    urllib.request.urlopen(request, timeout=30).read()


def stop():
    call("POST", "/action", b'{{"action": "stop"}}')


def destroy():
    call("DELETE", "")


def check():
    try:
        call("POST", "/action", b'{{"action": "start"}}')
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
"""


class Conflict(Refused):
    """The pod's status does not allow this action."""


def connect(environment: Mapping[str, str], home: Path, clock: Clock) -> RunPod:
    """A client of the account whose key is in `environment`. Raises NoKey."""
    key = environment.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise NoKey(
            "no RunPod key in RUNPOD_API_KEY. Create one at "
            "https://console.runpod.io/user/settings and put it there."
        )
    url, registry = environment.get("RUNPOD_API_BASE_URL"), environment.get("RUNPOD_REGISTRY", "")
    return RunPod(key, url, clock, registry=registry)


def read_instance(raw: Mapping[str, Any]) -> Instance:
    """An instance from a pod of the list."""
    id, said = raw["id"], str(raw["status"])
    if not (isinstance(id, str) and POD.fullmatch(id)):
        raise ValueError(f"id: {str(id)[:60]}")
    addresses = []
    with contextlib.suppress(*UNREADABLE):  # there is none before the container runs
        direct = raw["ssh"]["direct"]
        addresses.append((str(direct["host"]), int(direct["port"])))
    with contextlib.suppress(*UNREADABLE):
        for port in raw["runtime"]["ports"]:
            if port["private"] == 22 and port["type"] == "tcp" and port["ip"]:
                addresses.append((str(port["ip"]), int(port["public"])))
    size = 0.0
    with contextlib.suppress(*UNREADABLE):
        size = float(raw["mounts"]["persistent"]["size"])
    system, cost = float(raw["disk"]), dollars(raw["cost"])
    if cost is None:
        raise ValueError(f"cost: {str(raw['cost'])[:60]}")
    disk = disk_rate(size, STOPPED_DISK_PRICE)
    return Instance(
        id=id,
        label=str(raw["name"]),
        status=STATUS.get(said, "offline"),
        message=said,
        machine_id=0,
        price=cost + disk_rate(size + system),  # `cost` is that of the GPUs alone
        interruptible=False,
        addresses=tuple(dict.fromkeys(addresses)) if said == "RUNNING" else (),
        failed=said == "ERROR",
        disk_price=max(cost, disk) if said == "ERROR" else disk,  # which may be billed in full
    )


def read_row(raw: Mapping[str, Any]) -> Instance:
    """As `read_instance`, of any row; see `unreadable`."""
    try:
        return read_instance(raw)
    except UNREADABLE as error:
        id = raw.get("id")
        known = id if isinstance(id, str) and POD.fullmatch(id) else 0
        return unreadable(known, raw.get("name"), error)


def is_mine(raw: Any, prefix: str) -> bool:
    """Whether a row of the list is a pod that exists, and whose name begins with `prefix`."""
    if not isinstance(raw, dict) or raw.get("status") == "TERMINATED":
        return False
    name = raw.get("name")
    return isinstance(name, str) and name.startswith(prefix)


class RunPod(Client):
    """The calls of the API."""

    PACE = {ANY: 1.2}
    CONTROL = MACHINE_CONTROL

    def __init__(
        self,
        key: str,
        url: str | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        registry: str = "",
    ) -> None:
        super().__init__(key, url or URL, clock, jitter)
        self.registry = registry  # the id of the registry's login that RunPod has stored

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        if requirements.interruptible:  # the API v2 has no interruptible pods
            return []
        path, query = "/v2/catalog/gpus", search_query(requirements, rules)
        answer = self._repeat("search", "GET", path, params=query)
        offers: list[Offer] = []
        for raw in list_in(answer, "gpus", f"GET {path}"):
            with contextlib.suppress(*UNREADABLE):  # one odd row hides no other offer
                offers += read_offers(raw, requirements, rules)
        return offers

    def create(self, offer: Offer, order: Order) -> MachineId:
        body = order_body(offer, order, self.registry)
        made = self._call("create", "POST", "/v2/pods", json=body)
        id = made.get("id")
        if not (isinstance(id, str) and POD.fullmatch(id)):
            raise LostReply(f"create: id: {str(id)[:100]} found, a pod's id was expected")
        return id

    def instances(self, prefix: str = "") -> list[Instance]:
        path = "/v2/pods"
        rows = list_in(self._repeat("list", "GET", path), "pods", f"GET {path}")
        return [read_row(row) for row in rows if is_mine(row, prefix)]

    def instance(self, id: MachineId) -> Instance | None:
        try:
            raw = self._repeat("show", "GET", _path(id))
        except OfferGone:
            return None
        return read_row(raw) if is_mine(raw, "") else None

    def destroy(self, id: MachineId) -> None:
        with contextlib.suppress(OfferGone):
            self._call("destroy", "DELETE", _path(id))

    def start(self, id: MachineId) -> None:
        with contextlib.suppress(Conflict):  # it runs
            self._act(id, "start")

    def stop(self, id: MachineId) -> None:
        with contextlib.suppress(Conflict):  # it is stopped
            self._act(id, "stop")

    def reboot(self, id: MachineId) -> None:
        self._act(id, "restart")

    def credit(self) -> float | None:
        """From the older API, which is to end early in 2027; the newer one does not tell it."""
        query = {"query": "query { myself { clientBalance } }"}
        try:
            answer = self._call("credit", "POST", "/graphql", json=query)
            return dollars(answer["data"]["myself"]["clientBalance"])
        except (Refused, OfferGone, *UNREADABLE):
            return None

    def attach_key(self, id: MachineId, public_key: str) -> None:
        """Nothing: at each start a pod lets in the key that it was made with."""

    def _act(self, id: MachineId, action: str) -> None:
        self._repeat("state", "POST", f"{_path(id)}/action", json={"action": action})

    def _repeat(self, endpoint: str, method: str, path: str, **sent: Any) -> dict[str, Any]:
        return self._repeated(lambda: self._call(endpoint, method, path, **sent))

    def _call(self, endpoint: str, method: str, path: str, **sent: Any) -> dict[str, Any]:
        """The JSON object of the answer, empty if it has none."""
        self._take_turn(ANY)
        what = f"{method} {path}"
        unanswered = LostReply if endpoint == "create" else Unavailable
        try:
            reply = self._send(method, path, **sent)
        except requests.RequestException as error:
            raise unanswered(self._clean(f"{what}: {type(error).__name__}")) from None
        answer, text = json_object(reply), self._clean(reply.text)[:300]
        if 200 <= reply.status_code < 300:
            if not answer and reply.status_code != 204:
                raise unanswered(f"{what}: no JSON object: {text}")
            return answer
        if reply.status_code == 429:
            self._put_off(ANY, _seconds(reply.headers.get("Retry-After")))
        said = f"{what}: {reply.status_code} {text}"
        raise _error(endpoint, reply.status_code, answer, unanswered)(said + _advice(reply))


def _error(
    endpoint: str, status: int, answer: Mapping[str, Any], unanswered: type[MarketError]
) -> type[MarketError]:
    """The kind of error that an answer other than a success is."""
    if status in (401, 402) or status == 403 and endpoint == "search":
        return AccountRefused
    if status == 404 and answer.get("status") == 404:  # not what a gateway or a retired API answers
        return OfferGone
    if status == 409:
        return Conflict
    if status == 400 and endpoint == "create" and NO_CAPACITY.search(str(answer.get("detail"))):
        return OfferGone
    if status == 429:
        return Unavailable
    return unanswered if status >= 500 else Refused


def _advice(reply: requests.Response) -> str:
    advice = ADVICE.get(reply.status_code)
    return f"\n{advice}" if advice else ""


def _seconds(header: str | None) -> float:
    """How long an answer demands to wait."""
    with contextlib.suppress(TypeError, ValueError):
        return min(max(float(header or ""), 1.0), LONGEST_DELAY)
    return 12.0


def _path(id: MachineId) -> str:
    """The address of a pod. Raises Refused for what is no id of one."""
    if not POD.fullmatch(str(id)) or not id:
        raise Refused(f"{str(id)[:60]}: this is no pod of RunPod")
    return f"/v2/pods/{id}"
