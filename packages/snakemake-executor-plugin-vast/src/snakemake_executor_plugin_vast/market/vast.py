"""Vast.ai: its REST API as a `protocol.Market`, each call within its documented rate limit.

The API key travels in a header. It never enters an argument, a message or an instance.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
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
from .vast_offers import order_body, read_offer, search_query

URL = "https://console.vast.ai"
SECRETS = ("VAST_API_KEY", "VAST_IMAGE_LOGIN")
# Seconds between two calls, from the documentation; calls not named here are spaced by one second.
PACE = {"search": 6.0, "create": 4.5, "list": 1.0, "show": 2.0, "destroy": 3.0, "user": 3.0}
# The `error` of an answer decides, since Vast answers 404 and 410 to a wrong key and to a retired
# request as well as for what no longer exists.
GONE = ("no_such_ask", "no_such_instance")
QUOTA = "search_quota_exceeded"
DAY = 86400.0
ACCOUNT_REFUSALS = {
    "auth_error": "Vast.ai does not accept the API key for this request. Check VAST_API_KEY, and "
    "the permissions of the key at https://console.vast.ai/manage-keys/",
    "deprecated_endpoint": "Vast.ai no longer answers this request. Update it: pip install "
    "--upgrade snakemake-executor-plugin-vast",
    "insufficient_credit": "The Vast.ai account has no credit. Add some at "
    "https://console.vast.ai/billing/",
    QUOTA: "The account has used up its searches of this day",
}
# `actual_status`, the container's; every other value, and none, is a machine that is starting.
STATUS: dict[str, Status] = {
    "running": "running",
    "stopped": "stopped",
    "exited": "stopped",
    "frozen": "stopped",
    "offline": "offline",
    "unknown": "offline",
}
HALTED = ("stopped", "unloaded")  # of a contract, whose GPU may be let to somebody else
PAGES = 100  # of the list of machines, at most
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
# Vast gives every container a key that can stop and destroy this container and nothing else. To
# start a machine that runs changes nothing, and takes the same permission as to stop it.
MACHINE_CONTROL = """\
import os
import urllib.request


def call(method, body):
    url = "{url}/api/v0/instances/" + os.environ["CONTAINER_ID"] + "/"
    key = "Bearer " + os.environ["CONTAINER_API_KEY"]
    headers = {{"Authorization": key, "Content-Type": "application/json", "User-Agent": "{agent}"}}
    request = urllib.request.Request(url, body, headers, method=method)
    urllib.request.urlopen(request, timeout=30).read()


def stop():
    call("PUT", b'{{"state": "stopped"}}')


def destroy():
    call("DELETE", b"{{}}")


def check():
    call("PUT", b'{{"state": "running"}}')
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
        if place.is_file() and (key := place.read_text("utf-8").strip()):
            return key
    named = " nor in ".join(map(str, places))
    raise NoKey(
        f"no Vast.ai key in VAST_API_KEY, nor in {named}. Create one at "
        "https://console.vast.ai/manage-keys/ and put it in one of these places."
    )


def read_status(raw: Mapping[str, Any]) -> Status:
    """The status of a machine, from what Vast says of its container and of its contract.

    The container's status lags: a machine that was outbid or stopped is listed as running for a
    while. `cur_state` is whether the contract has its GPU now, `next_state` and `intended_status`
    what is to come.
    """
    status = STATUS.get(raw.get("actual_status") or "", "starting")
    contract = [raw.get("intended_status"), raw.get("next_state")]
    contract += [raw.get("cur_state")] if status == "running" else []  # others wait for their GPU
    if status in ("running", "starting") and any(state in HALTED for state in contract):
        return "stopped"
    return status


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
        status=read_status(raw),
        message=message,
        machine_id=int(raw.get("machine_id") or 0),
        price=float(raw.get("dph_total") or 0.0),
        interruptible=bool(raw.get("is_bid")),
        addresses=tuple(address for address in dict.fromkeys(addresses) if address[0]),
        failed=any(words in message.lower() for words in FATAL),
        disk_price=dollars(raw.get("storage_total_cost")) or 0.0,
    )


def read_row(raw: Mapping[str, Any]) -> Instance:
    """As `read_instance`, of any row; see `unreadable`."""
    try:
        return read_instance(raw)
    except UNREADABLE as error:
        id = raw.get("id")
        return unreadable(id if isinstance(id, int) else 0, raw.get("label"), error)


def has_label(raw: Any, prefix: str) -> bool:
    """Whether a row of the list is a machine whose label begins with `prefix`."""
    label = raw.get("label") if isinstance(raw, dict) else None
    return isinstance(label, str) and label.startswith(prefix)


class Vast(Client):
    """The calls of the API."""

    PACE = PACE
    CONTROL = MACHINE_CONTROL

    def __init__(
        self,
        key: str,
        url: str | None = None,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
        image_login: str = "",
    ) -> None:
        super().__init__(key, url or URL, clock, jitter, (image_login,))
        self.image_login = image_login
        self._quota_ends = 0.0  # wall-clock time before which no search is answered

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        query = search_query(requirements, rules)
        if self.clock.wall() < self._quota_ends:
            raise AccountRefused(self._no_quota())
        path = "/api/v0/bundles/"
        found = list_in(self._repeat("search", "POST", path, query), "offers", f"POST {path}")
        offers = []
        for raw in found:
            with contextlib.suppress(*UNREADABLE):  # one odd row hides no other offer
                offers.append(read_offer(raw))
        return offers

    def create(self, offer: Offer, order: Order) -> int:
        body = order_body(order, self.image_login)
        made = self._call("create", "PUT", f"/api/v0/asks/{offer.id}/", body)
        try:
            return int(made["new_contract"])
        except UNREADABLE:
            number = str(made.get("new_contract"))[:100]  # the rest may hold the machine's key
            raise LostReply(
                f"create on offer {offer.id}: new_contract: {number} found, a number was expected"
            ) from None

    def instances(self, prefix: str = "") -> list[Instance]:
        found: list[Instance] = []
        after = None
        path = "/api/v1/instances/"
        for _ in range(PAGES):
            query = {"limit": 25} | ({"after_token": after} if after else {})
            page = self._repeat("list", "GET", path, query)
            rows = list_in(page, "instances", f"GET {path}")
            found += [read_row(row) for row in rows if has_label(row, prefix)]
            after = page.get("next_token")
            if not after:
                return found
        raise Unavailable(f"GET {path}: the list has no end, {PAGES} pages were read")

    def instance(self, id: MachineId) -> Instance | None:
        raw = self._show(id)
        return None if raw is None else read_row(raw)

    def _show(self, id: MachineId) -> dict[str, Any] | None:
        """The market's row of an instance, None if it no longer exists."""
        path = f"/api/v0/instances/{id}/"
        try:
            answer = self._repeat("show", "GET", path, {"owner": "me"})
        except OfferGone:
            return None
        found = answer.get("instances", False)
        if not isinstance(found, dict | None):
            raise Unavailable(f"GET {path}: an instance or null was expected: {str(answer)[:300]}")
        return found

    def destroy(self, id: MachineId) -> None:
        with contextlib.suppress(OfferGone):
            self._call("destroy", "DELETE", f"/api/v0/instances/{id}/", {})

    def start(self, id: MachineId) -> None:
        shown = self._show(id) or {}
        if shown.get("cur_state") == "running":  # its container has exited by itself
            return self.reboot(id)
        self._repeat("change", "PUT", f"/api/v0/instances/{id}/", {"state": "running"})

    def stop(self, id: MachineId) -> None:
        self._repeat("change", "PUT", f"/api/v0/instances/{id}/", {"state": "stopped"})

    def reboot(self, id: MachineId) -> None:
        self._repeat("reboot", "PUT", f"/api/v0/instances/reboot/{id}/", {})

    def credit(self) -> float | None:
        try:
            user = self._repeat("user", "GET", "/api/v0/users/current/", {})
        except Refused:  # without the permission user_read
            return None
        return dollars(user.get("credit", user.get("balance")))

    def attach_key(self, id: MachineId, public_key: str) -> None:
        self._repeat("attach", "POST", f"/api/v0/instances/{id}/ssh/", {"ssh_key": public_key})

    def _repeat(
        self, endpoint: str, method: str, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        return self._repeated(lambda: self._call(endpoint, method, path, body))

    def _call(self, endpoint: str, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._take_turn(endpoint)
        what = f"{method} {path}"
        unanswered = LostReply if endpoint == "create" else Unavailable
        sent: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        try:
            reply = self._send(method, path, **sent)
        except requests.RequestException as error:
            raise unanswered(self._clean(f"{what}: {type(error).__name__}")) from None
        text = self._clean(reply.text)[:300]  # cleaned first: a key cut in two is not found
        said = f"{what}: {reply.status_code} {text}"
        answer = json_object(reply)
        code = str(answer.get("error"))
        if code == QUOTA:
            self._quota_ends = (self.clock.wall() // DAY + 1) * DAY
            raise AccountRefused(f"{said}\n{self._no_quota()}")
        if code in ACCOUNT_REFUSALS:
            raise AccountRefused(f"{said}\n{ACCOUNT_REFUSALS[code]}")
        if code in GONE:
            raise OfferGone(said)
        if reply.status_code == 429:
            self._put_off(endpoint, 3 * PACE.get(endpoint, 1.0))  # as documented
            raise Unavailable(said)
        if reply.status_code >= 500:
            raise unanswered(said)
        if reply.status_code >= 300 or answer.get("success") is False:
            raise Refused(said)
        if not answer:
            raise unanswered(f"{what}: no JSON object: {text}")
        return answer

    def _no_quota(self) -> str:
        ends = f"{datetime.fromtimestamp(self._quota_ends, UTC):%Y-%m-%d %H:%M} UTC"
        return f"{ACCOUNT_REFUSALS[QUOTA]}. They are allowed again from {ends} on"
