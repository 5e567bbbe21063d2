"""Vast.ai: its REST API as a `protocol.Market`, each call within its documented rate limit.

The API key travels in a header. It never enters an argument, a message or an instance.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests

from ..clock import Clock
from .protocol import (
    AccountRefused,
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
AGENT = f"snakemake-executor-plugin-vast/{version('snakemake-executor-plugin-vast')}"
SECRETS = ("VAST_API_KEY", "VAST_IMAGE_LOGIN")
# Seconds between two calls, from the documentation; calls not named here are spaced by one second.
PACE = {"search": 6.0, "create": 4.5, "list": 1.0, "show": 2.0, "destroy": 3.0}
RATE = 0.9  # of the documented rates, since requests do not all take the same time to arrive
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 2.0, 60.0
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
# `actual_status`; every other value, and none, is a machine that is starting.
STATUS: dict[str, Status] = {
    "running": "running",
    "stopped": "stopped",
    "exited": "stopped",
    "frozen": "stopped",
    "offline": "offline",
    "unknown": "offline",
}
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
    key = "Bearer " + os.environ["CONTAINER_API_KEY"]
    headers = {{"Authorization": key, "Content-Type": "application/json", "User-Agent": "{agent}"}}
    request = urllib.request.Request(url, body, headers, method=method)
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

    cores, own_cores = number("cpu_cores"), number("cpu_cores_effective")
    # `cpu_ram` is the host's. A machine has the part that belongs to its GPUs, as of the cores.
    share = min(1.0, own_cores / cores) if cores and own_cores else number("gpu_frac")
    return Offer(
        id=int(raw.get("ask_contract_id") or raw["id"]),
        machine_id=int(raw.get("machine_id") or 0),
        gpu_name=str(raw.get("gpu_name") or ""),
        gpus=int(raw.get("num_gpus") or 0),
        gpu_mem_mb=number("gpu_ram"),
        mem_mb=number("cpu_ram") * share,
        disk_gb=number("disk_space"),
        price=number("dph_total"),
        lowest_bid=number("min_bid"),
        storage_price=number("storage_cost"),
        upload_price=number("inet_up_cost"),
        download_price=number("inet_down_cost"),
        reliability=number("reliability2") or number("reliability"),
        score=number("score"),
        location=str(raw.get("geolocation") or ""),
    )


def read_instance(raw: Mapping[str, Any]) -> Instance:
    """An instance from a row of the list. Its direct address comes before that of the proxy."""
    addresses = []
    direct = (raw.get("ports") or {}).get("22/tcp") or []
    if direct and raw.get("public_ipaddr"):
        addresses.append((str(raw["public_ipaddr"]).strip(), int(direct[0]["HostPort"])))
    if raw.get("ssh_host") and raw.get("ssh_port"):
        addresses.append((str(raw["ssh_host"]), int(raw["ssh_port"])))
    message = str(raw.get("status_msg") or "")
    return Instance(
        id=int(raw["id"]),
        label=str(raw.get("label") or ""),
        status=STATUS.get(raw.get("actual_status") or "", "starting"),
        message=message,
        machine_id=int(raw.get("machine_id") or 0),
        price=float(raw.get("dph_total") or 0.0),
        interruptible=bool(raw.get("is_bid")),
        addresses=tuple(dict.fromkeys(addresses)),
        failed=any(words in message.lower() for words in FATAL),
    )


def search_query(requirements: Requirements, rules: SearchRules) -> dict[str, Any]:
    """The body of a search. The type `bid` finds interruptible offers; the order has the bid."""
    price = "min_bid" if requirements.interruptible else "dph_total"
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
        "direct_port_count": {"gte": 1},  # Vast's proxy is too slow for checkpoints
        "type": "bid" if requirements.interruptible else "on-demand",
        "order": [["score", "desc"] if rules.rank == "score" else [price, "asc"]],
        "allocated_storage": requirements.disk_gb,
        "limit": 64,  # Vast returns no more
    }
    if not requirements.interruptible:
        query["dph_total"] = {"lte": requirements.max_price}
    if requirements.gpu_models:
        names = [model.replace("_", " ") for model in requirements.gpu_models]
        query["gpu_name"] = {"in": names}
    if requirements.gpu_mem_mb:
        query["gpu_ram"] = {"gte": requirements.gpu_mem_mb}
    if requirements.mem_mb:
        query["cpu_ram"] = {"gte": requirements.mem_mb}  # of the host; `rank` checks the share
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


def _json_object(reply: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty if it is anything else, such as HTML or a list."""
    try:
        found = reply.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
        self._quota_ends = 0.0  # wall-clock time before which no search is answered

    @property
    def machine_control(self) -> str:
        return MACHINE_CONTROL.format(url=self.url, agent=AGENT)

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        query = search_query(requirements, rules)
        if self.clock.wall() < self._quota_ends:
            raise AccountRefused(self._no_quota())
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
            found += [read_instance(raw) for raw in page.get("instances") or []]
            after = page.get("next_token")
            if not after:
                return found

    def instance(self, id: int) -> Instance | None:
        try:
            raw = self._repeat("show", "GET", f"/api/v0/instances/{id}/", {"owner": "me"})
        except OfferGone:
            return None
        return read_instance(raw["instances"]) if raw.get("instances") else None

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
            # A redirect could turn an order into a search, or take the key to another host.
            reply = self._session().request(
                method, self.url + path, timeout=(10, 30), allow_redirects=False, **sent
            )
        except requests.RequestException as error:
            raise unanswered(self._clean(f"{what}: {type(error).__name__}")) from None
        text = self._clean(reply.text)[:300]  # cleaned first: a key cut in two is not found
        said = f"{what}: {reply.status_code} {text}"
        answer = _json_object(reply)
        code = str(answer.get("error"))
        if code == QUOTA:
            self._quota_ends = (self.clock.wall() // DAY + 1) * DAY
            raise AccountRefused(f"{said}\n{self._no_quota()}")
        if code in ACCOUNT_REFUSALS:
            raise AccountRefused(f"{said}\n{ACCOUNT_REFUSALS[code]}")
        if code in GONE:
            raise OfferGone(said)
        if reply.status_code == 429:
            self._put_off(endpoint)
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
            self._free_at[endpoint] = turn + PACE.get(endpoint, 1.0) / RATE
        self.clock.wait(turn - now)

    def _put_off(self, endpoint: str) -> None:
        """Delay the next call as the documentation demands after a 429."""
        with self._lock:
            later = self.clock.now() + 3 * PACE.get(endpoint, 1.0)
            self._free_at[endpoint] = max(later, self._free_at.get(endpoint, later))

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "<key>")
