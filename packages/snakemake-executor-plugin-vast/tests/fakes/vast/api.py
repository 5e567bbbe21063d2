"""The REST API: paths, limits, permissions and shapes, on top of the world behind it."""

import json
import math
import re
from collections import defaultdict

from .account import Account
from .faults import Plan, answer
from .market import SECONDS_A_DAY, select
from .world import Instance, World

PAGE = 25  # instances in one reply of the v1 list
MOST_OFFERS = 64
# (method, path, name); names are also the points where faults strike.
ROUTES = [
    ("POST", r"/api/v0/bundles", "search"),
    ("PUT", r"/api/v0/search/asks", "search"),
    ("PUT", r"/api/v0/asks/(\d+)", "create"),
    ("GET", r"/api/v0/instances", "retired"),
    ("GET", r"/api/v1/instances", "list"),
    ("DELETE", r"/api/v0/instances", "destroy"),
    ("GET", r"/api/v0/instances/(\d+)", "get"),
    ("PUT", r"/api/v0/instances/(\d+)", "state"),
    ("DELETE", r"/api/v0/instances/(\d+)", "destroy"),
    ("POST", r"/api/v0/instances/(\d+)/ssh", "ssh"),
    ("PUT", r"/api/v0/instances/bid_price/(\d+)", "bid"),
    ("PUT", r"/api/v0/instances/reboot/(\d+)", "reboot"),
    ("PUT", r"/api/v0/instances/request_logs/(\d+)", "logs"),
    ("PUT", r"/api/v0/instances/command/(\d+)", "execute"),
    ("PUT", r"/api/v0/instances/recycle/(\d+)", "recycle"),
    ("GET", r"/api/v0/instances/balance/(\d+)", "deposit"),
    ("POST", r"/api/v0/ssh", "keys"),
    ("GET", r"/api/v0/ssh", "key_list"),
    ("GET", r"/api/v0/users/current", "user"),
    ("GET", r"/api/v0/users/me/invoices", "invoices"),
]
# What the key inside a container may do, with its own instance.
CONTAINER_MAY = {"state", "destroy"}
# Least seconds between two calls of one key, and how long a refused one makes the next wait.
INTERVAL = {
    **{"create": 4.5, "get": 2, "list": 1, "state": 1, "destroy": 3, "bid": 5.5, "user": 3},
}
PENALTY = {"create": 12}
SEARCHES_A_MINUTE = 10  # of one address
RUNTYPES = {
    *("ssh", "ssh_proxy", "ssh_direc", "ssh_direct", "args"),
    *("jupyter", "jupyter_proxy", "jupyter_direc", "jupyter_direct"),
}


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, error: str | None, msg: str, **more):
        body = {"success": False, "error": error, "msg": msg, **more}
        self.status, self.body = status, msg if error is None else body


class Limits:
    """Per endpoint, key and address: a least interval, in the service's own seconds."""

    def __init__(self):
        self._free: dict[tuple, float] = defaultdict(float)
        self._searches: dict[str, list[float]] = defaultdict(list)

    def check(self, name: str, key: str, address: str, now: float) -> None:
        if name == "search":
            recent = [t for t in self._searches[address] if t > now - 60]
            if len(recent) >= SEARCHES_A_MINUTE:
                raise Refusal(429, None, "API requests too frequent")
            self._searches[address] = [*recent, now]
            return
        if (threshold := INTERVAL.get(name)) is None:
            return
        if now < self._free[name, key, address]:
            if name in PENALTY:
                self._free[name, key, address] = now + PENALTY[name]
            msg = f"API requests too frequent: endpoint threshold={float(threshold)}"
            raise Refusal(429, None, msg)
        self._free[name, key, address] = now + threshold


# Rows of an account that are no machines of ours, and hardly readable.
ODD_ROWS = (
    {"id": 7, "label": "a machine of somebody else", "ports": [8080, 8081], "ssh_port": None},
    {"id": None, "label": None, "machine_id": None, "dph_total": None, "ports": None},
    {"id": 8, "label": 8, "image_runtype": "vm", "actual_status": None, "public_ipaddr": None},
    None,
)


class Api(Account):
    """Answers requests that were routed to one of `ROUTES`; the caller holds the world's lock."""

    def __init__(
        self,
        world: World,
        plan: Plan,
        key: str,
        url: str,
        limits: bool = True,
        daily_searches: float = math.inf,
    ):
        self.world, self.plan, self.key, self.url = world, plan, key, url
        self.limits = Limits() if limits else None
        self.daily_searches, self._searched = daily_searches, (0.0, 0)  # the day, and how many
        self.results = []

    def unknown(self, path: str) -> tuple[int, dict]:
        """The answer to a request that the service does not have."""
        return 404, {"success": False, "error": "not_found", "msg": path}

    def failure(self, effect: dict) -> tuple[int, dict | str]:
        """The answer of a planned fault."""
        return answer(effect)

    def headers(self, status: int) -> dict[str, str]:
        """Headers of an answer with this status."""
        return {}

    def answer(self, name, path, argument, query, body, token, address, effect) -> dict:
        if not isinstance(body, dict):
            raise Refusal(400, "invalid_args", "The body must be a JSON object.")
        if self.world.closed:
            raise Refusal(503, None, "Service Unavailable")
        now = self.world.catch_up()
        if name == "retired":
            msg = f"{path} is deprecated. Use {path.replace('v0', 'v1')} instead."
            raise Refusal(410, "deprecated_endpoint", msg)
        scope = self._scope(token)
        if self.limits:
            self.limits.check(name, token, address, now)
        target = int(argument) if argument else None
        if scope is not None and (name not in CONTAINER_MAY or target != scope.id):
            raise Refusal(
                403, "auth_error", "This key may only stop, start or destroy its instance."
            )
        if name in {"search", "keys", "key_list", "user"}:
            return getattr(self, name)(body)
        if name == "invoices":
            return self.invoices(query)
        if name == "create":
            return self.create(target, body, effect)
        if name == "list":
            return self.list(query, effect.get("lag"), effect.get("odd"))
        if name == "destroy" and target is None:
            for number in body.get("instance_ids", []):
                self.world.destroy(self._instance(int(number)))
            return {"success": True}
        if name == "get":
            instance = self.world.instances.get(target)
            gone = instance is None or instance.destroyed is not None
            return {"instances": None if gone else self.view(instance)}
        try:
            return getattr(self, name)(self._instance(target), body)
        except ValueError as error:
            raise Refusal(400, "invalid_args", str(error)) from None

    def _scope(self, token: str) -> Instance | None:
        """The instance that a container's key belongs to; None for the account's own key."""
        if token == self.key:
            return None
        for instance in self.world.live():
            if token == instance.key:
                return instance
        raise Refusal(404, "auth_error", "Invalid user key")

    def _instance(self, number: int) -> Instance:
        instance = self.world.instances.get(number)
        if instance is None or instance.destroyed is not None:
            raise Refusal(404, "no_such_instance", f"Instance {number} not found.")
        return instance

    # ---- offers ----------------------------------------------------------------------------------

    def search(self, body: dict) -> dict:
        columns = body.get("select_cols", ["*"])  # of the newer form, which nests its filters
        body = dict(body.get("q", body))
        kind, order = body.pop("type", "on-demand"), body.pop("order", [["score", "desc"]])
        limit, storage = body.pop("limit", MOST_OFFERS), body.pop("allocated_storage", 5.0)
        if kind not in {"on-demand", "bid", "reserved"}:
            raise Refusal(400, "invalid_args", f"type: {kind}")
        now, world = self.world.clock.now(), self.world
        today = now // SECONDS_A_DAY
        day, searches = self._searched
        self._searched = today, (searches if day == today else 0) + 1
        if self._searched[1] > self.daily_searches:
            raise Refusal(429, "search_quota_exceeded", "Daily search quota exceeded.")
        rows = [
            offer.view(storage, kind == "bid", world.rented(offer), now)
            for offer in world.offers.values()
        ]
        rows = [row for row in rows if not row["rented"]]
        for row in rows:
            row["score"] = row["dlperf"] * row["num_gpus"] / row["dph_total"]
            row["dlperf_per_dphtotal"] = row["score"]
        try:
            rows = select(rows, body)
            for field, direction in reversed(order):
                rows.sort(key=lambda row, f=field: row[f], reverse=direction == "desc")
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(400, "invalid_args", str(error)) from None
        rows = rows[: min(limit, MOST_OFFERS)]
        if "*" not in columns:
            rows = [{name: row.get(name) for name in columns} for row in rows]
        return {"offers": rows}

    def create(self, ask: int, body: dict, effect: dict) -> dict:
        offer = self.world.offers.get(ask)
        request = {"disk": 10, "runtype": "ssh"} | {k: v for k, v in body.items() if v is not None}
        _check_request(request)
        if offer is None:
            raise Refusal(404, "no_such_ask", f"No such ask {ask}.", ask_id=ask)
        offer.taken = offer.taken or bool(effect.get("taken"))
        too_low = "price" in request and request["price"] < offer.min_bid
        rented = self.world.rented(offer) and not effect.get("double")
        if rented or (too_low and request.get("cancel_unavail")):
            msg = f"error 410/3907: no_such_ask Instance type {ask} is no longer available."
            raise Refusal(410, "no_such_ask", msg, ask_id=ask)
        if request["disk"] > offer.disk_space:
            raise Refusal(400, "invalid_args", f"disk: the host has {offer.disk_space} GB.")
        if self.world.balance <= 0 and not self.world.card:
            raise Refusal(400, "insufficient_credit", "Your account has no credit.", ask_id=ask)
        faults = {"stuck": "null"} if effect.get("double") else self.plan.take("boot")
        instance = self.world.create(offer, request, faults, effect.get("dearer", 1.0))
        return {"success": True, "new_contract": instance.id, "instance_api_key": instance.key}

    # ---- instances -------------------------------------------------------------------------------

    def list(self, query: dict, lag: float | None = None, odd: bool | None = None) -> dict:
        then = self.world.clock.now() - (lag or 0)
        rows = [
            self.view(instance)
            for instance in self.world.instances.values()
            if instance.created <= then
            and (instance.destroyed is None or (lag and instance.destroyed > then))
        ]
        try:
            found = select(rows, json.loads(query.get("select_filters", "{}")))
            limit = min(int(query.get("limit", PAGE)), PAGE)
            after = int(query.get("after_token") or 0)
        except ValueError as error:
            raise Refusal(400, "invalid_args", str(error)) from None
        rest = [row for row in found if row["id"] > after]
        shown = rest[:limit]
        if odd:
            shown = [*ODD_ROWS, *(row | {"ports": [22, 8080]} for row in shown)]
        return {
            "success": True,
            "instances_found": len(found),
            "total_instances": len(rows),
            "label_counts": {},
            "next_token": str(rest[limit - 1]["id"]) if len(rest) > limit else None,
            "instances": shown,
        }

    def view(self, instance: Instance) -> dict:
        machine, request, offer = instance.machine, instance.request, instance.offer
        now = self.world.clock.now()
        direct = machine.direct in machine.wires and instance.actual_status == "running"
        return {
            "id": instance.id,
            "actual_status": instance.actual_status,
            "intended_status": instance.intended_status,
            "cur_state": instance.cur_state,
            "next_state": instance.intended_status,
            "status_msg": instance.status_msg,
            "label": request.get("label"),
            "image_uuid": request.get("image"),
            "image_runtype": request["runtype"],
            "image_args": request.get("args", []),
            "extra_env": [[key, str(value)] for key, value in request.get("env", {}).items()],
            "onstart": request.get("onstart"),
            "template_id": request.get("template_id"),
            "template_hash_id": request.get("template_hash_id"),
            "ssh_host": machine.proxy.address,
            "ssh_port": machine.proxy.port,
            "ssh_idx": "1",
            "machine_dir_ssh_port": machine.direct.port,
            "public_ipaddr": machine.direct.address,
            "local_ipaddrs": "172.17.0.2",
            "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(machine.direct.port)}]}
            if direct
            else {},
            "direct_port_start": machine.direct.port if direct else -1,
            "direct_port_end": machine.direct.port if direct else -1,
            "is_bid": instance.price is not None,
            "start_date": instance.created,
            "end_date": instance.ends,
            "duration": instance.ends - now,
            "uptime_mins": None,
            "mem_limit": offer.host_ram * offer.share / 1000,
            "disk_space": instance.disk,
            "disk_usage": -1,
            "gpu_util": 0.0 if instance.actual_status == "running" else None,
            "gpu_temp": None,
            "rentable": False,
            **offer.facts(),
            **instance.rates(),
        }

    def state(self, instance: Instance, body: dict) -> dict:
        if "label" in body:
            _check_label(body["label"])
            instance.request["label"] = body["label"]
        if "state" in body:
            if body["state"] not in {"running", "stopped"}:
                raise Refusal(400, "invalid_args", "state: running or stopped.")
            if body["state"] == "stopped":
                self.world.stop(instance)
            elif instance.price is not None and instance.price < instance.offer.min_bid:
                instance.intended_status = "running"  # starts when the bid is high enough
            else:
                self.world.start(instance)
        return {"success": True}

    def destroy(self, instance: Instance, body: dict) -> dict:
        self.world.destroy(instance)
        return {"success": True}

    def reboot(self, instance: Instance, body: dict) -> dict:
        self.world.reboot(instance)
        return {"success": True}

    def bid(self, instance: Instance, body: dict) -> dict:
        if instance.price is None:
            raise Refusal(400, "invalid_args", "Not an interruptible instance.")
        _check_price(body.get("price"))
        instance.price = body["price"]
        self.world.bid(instance.offer)
        return {"success": True}

    def ssh(self, instance: Instance, body: dict) -> dict:
        instance.machine.attach(_public_key(body))
        return {"success": True, "msg": "SSH key attached successfully"}

    def logs(self, instance: Instance, body: dict) -> dict:
        tail = body.get("tail", "1000")
        return {"success": True, "result_url": f"{self.url}/fake/logs/{instance.id}?tail={tail}"}

    # ---- account ---------------------------------------------------------------------------------

    def keys(self, body: dict) -> dict:
        """A key of the account: on every machine rented from now on."""
        self.world.account_keys.append(_public_key(body))
        return {"success": True, "id": len(self.world.account_keys)}

    def user(self, body: dict) -> dict:
        world = self.world
        email = {"username": "tester", "email": "tester@example.org"}
        billing = {"balance": world.balance, "can_pay": True, "has_billing": bool(world.card)}
        return {"id": 4242, **email, **billing}


def _check_request(request: dict) -> None:
    """What the service refuses in a create, with its limits."""

    def need(truth, what: str) -> None:
        if not truth:
            raise Refusal(400, "invalid_args", what)

    image, env, disk = request.get("image"), request.get("env", {}), request["disk"]
    need(isinstance(image, str) or request.get("template_hash_id"), "image: a name is needed.")
    need(len(image or "") <= 1024, "image: at most 1024 characters.")
    need(isinstance(disk, int | float) and disk >= 8, "disk: at least 8 GB.")
    script = str(request.get("onstart") or "") + "".join(map(str, request.get("args", [])))
    need(len(script) <= 4048, "onstart and args: at most 4048 characters.")
    need(isinstance(env, dict), "env: an object is needed.")
    need(sum(len(f"{k}{v}") for k, v in env.items()) <= 32768, "env: at most 32 kB.")
    need(set(request["runtype"].split()) <= RUNTYPES, f"runtype: {request['runtype']}")
    need(request.get("target_state", "running") in {"running", "stopped"}, "target_state")
    _check_label(request.get("label"))
    if "price" in request:
        _check_price(request["price"])


def _public_key(body: dict) -> str:
    key = body.get("ssh_key")
    if not isinstance(key, str) or not re.match(r"(ssh|ecdsa|sk)-\S+ [\w+/=]+", key):
        raise Refusal(400, "invalid_args", "ssh_key: a public key is needed.")
    return key.strip()


def _check_label(label) -> None:
    if label is not None and not (isinstance(label, str) and len(label) <= 256):
        raise Refusal(400, "invalid_args", "label: at most 256 characters.")


def _check_price(price) -> None:
    if not isinstance(price, int | float) or not 0.001 <= price <= 128:
        raise Refusal(400, "invalid_price", "price: from 0.001 to 128 $/h.")
