"""RunPod's REST API v2: paths, statuses, limits and shapes, on top of the world behind it."""

import math
import re
import shlex
from datetime import UTC, datetime

from fakes.vast.api import Refusal as Refused
from fakes.vast.faults import Plan
from fakes.vast.world import World

from .graphql import GraphQL, QueryRefused
from .pods import Pod, pod_id

ROUTES = [
    ("GET", r"/v2/catalog/gpus", "search"),
    ("GET", r"/v2/pods", "list"),
    ("POST", r"/v2/pods", "create"),
    ("GET", r"/v2/pods/([\w-]+)", "get"),
    ("DELETE", r"/v2/pods/([\w-]+)", "destroy"),
    ("POST", r"/v2/pods/([\w-]+)/action", "state"),
    ("POST", r"/graphql", "user"),
]
POD_MAY = {"get", "state", "destroy"}  # what the key inside a pod may do, with its own pod
A_MINUTE = 60  # requests of one key
GPU_IDS = {
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "A100 SXM": "NVIDIA A100-SXM4-80GB",
    "H100 SXM": "NVIDIA H100 80GB HBM3",
}
MAY = {  # actions by status
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
}
TITLES = {
    400: ("Bad Request", "request could not be processed"),
    401: ("Unauthorized", "invalid bearer token"),
    402: ("Payment Required", "insufficient balance"),
    403: ("Forbidden", "access denied"),
    404: ("Not Found", "resource not found"),
    409: ("Conflict", "action not valid for current status"),
    422: ("Unprocessable Entity", "Request validation failed."),
    429: ("Too Many Requests", "rate limit exceeded for the minute window"),
    500: ("Internal Server Error", "internal error"),
    503: ("Service Unavailable", "upstream unavailable"),
}
NONE_LEFT = "There are no longer any instances available with the requested specifications."
NO_GPU = "There are not enough free GPUs on the host machine to start this pod."
# Fields of a create and their types. The service refuses others.
CREATE = {"name": str, "image": str, "args": str, "cloud": str, "dataCenterIds": list, "gpu": dict}
CREATE |= {"disk": int, "mounts": dict, "ports": list, "env": dict, "registry": str}
CREATE |= {"startSsh": bool}
GPU = {"id", "count", "allowedCudaVersions", "minCudaVersion"}
ODD_ROWS = (None, {}, {"id": None, "name": None, "status": 7}, {"id": "x", "name": "of others"})


class Refusal(Refused):
    """An answer other than a success, as a problem object."""

    def __init__(self, status: int, detail: str = "", *errors: str):
        super().__init__(status, None, detail)
        self.status, self.body = status, problem(status, detail, *errors)


def problem(status: int, detail: str = "", *errors: str) -> dict:
    title, usual = TITLES.get(status, ("Error", "error"))
    found = {"title": title, "status": status, "detail": detail or usual}
    return found | ({"errors": list(errors)} if errors else {})


class Api:
    """Answers requests that were routed to one of `ROUTES`; the caller holds the world's lock."""

    def __init__(
        self, world: World, plan: Plan, key: str, url: str, limits: bool = True, *more: float
    ):
        self.world, self.plan, self.key, self.url, self.limits = world, plan, key, url, limits
        self.results: list[str] = []
        self._calls: dict[str, list[float]] = {}
        self._graphql = GraphQL(self)

    def unknown(self, path: str) -> tuple[int, str]:
        return 404, "404 page not found"

    def failure(self, effect: dict) -> tuple[int, dict | str]:
        return effect["status"], effect.get("text") or problem(
            effect["status"], effect.get("msg", "")
        )

    def headers(self, status: int) -> dict[str, str]:
        return {"Retry-After": "12"} if status == 429 else {}

    def answer(self, name, path, argument, query, body, token, address, effect):
        if self.world.closed:
            raise Refusal(503)
        if name == "user":
            return self._older(body, token)
        scope = self._scope(token)
        self._limit(token)
        if scope and (name not in POD_MAY or argument != pod_id(scope)):
            raise Refusal(403)
        if name == "search":
            return self.search(query)
        if name == "create":
            return 201, self.create(body, effect)
        if name == "list":
            return self.list(effect)
        pod = self.pod(argument)
        if name == "get":
            return self.view(pod)
        if name == "destroy":
            self.world.destroy(pod)
            return 204, ""
        return self.act(pod, body)

    def _scope(self, token: str) -> Pod | None:
        """The pod that a key belongs to; None for the account's own key."""
        if token == self.key:
            return None
        for pod in self.world.live():
            if token == pod.key:
                return pod
        raise Refusal(401)

    def _limit(self, token: str) -> None:
        now = self.world.catch_up()
        recent = [t for t in self._calls.get(token, ()) if t > now - 60]
        if self.limits and len(recent) >= A_MINUTE:
            raise Refusal(429)
        self._calls[token] = [*recent, now]

    def pod(self, id: str) -> Pod:
        for pod in self.world.live():
            if pod_id(pod) == id:
                return pod
        raise Refusal(404, "pod not found")

    # ---- offers ----------------------------------------------------------------------------------

    def hosts(self, count: int, cuda: float = 0.0, gpu: str = "", places=()) -> list:
        """Hosts that have so many GPUs free for a pod."""
        return [
            offer
            for offer in self.world.offers.values()
            if offer.num_gpus == count
            and offer.cuda_max_good >= cuda
            and gpu in ("", GPU_IDS[offer.gpu_name])
            and (not places or offer.geolocation in places)
            and not self.world.rented(offer)
        ]

    def search(self, query: dict) -> dict:
        known = {"include", "product", "count", "cloud", "minCudaVersion", "countryCodes"}
        if wrong := set(query) - known:
            raise Refusal(422, "", f"query: {sorted(wrong)}")
        shown = query.get("include") == "AVAILABILITY"
        if shown and query.get("product") != "POD" or not shown and set(query) - {"include"}:
            raise Refusal(400, "product is required with include=AVAILABILITY, and valid only so")
        if not re.fullmatch(r"\d+(\.\d+)?", query.get("minCudaVersion", "0")):
            raise Refusal(422, "", "minCudaVersion")
        countries = set(filter(None, query.get("countryCodes", "").split(",")))
        free = self.hosts(int(query.get("count", 1)), float(query.get("minCudaVersion", 0)))
        rows = []
        for name, id in GPU_IDS.items():
            of_kind = [o for o in self.world.offers.values() if o.gpu_name == name]
            if not of_kind:
                continue
            row = self._gpu(name, id, of_kind)
            if shown:
                mine = [
                    o.geolocation
                    for o in free
                    if o.gpu_name == name and (not countries or country(o.geolocation) in countries)
                ]
                if countries and not mine:
                    continue
                row["availability"] = level(len(mine))
                if mine:
                    row["dataCenters"] = [
                        {"id": place, "name": place, "availability": level(mine.count(place))}
                        for place in sorted(set(mine))
                    ]
            rows.append(row)
        return {"gpus": rows}

    def _gpu(self, name: str, id: str, hosts: list) -> dict:
        price = min(o.dph_base / o.num_gpus for o in hosts)
        return {
            "id": id,
            "name": name,
            "pool": None,
            "manufacturer": "NVIDIA",
            "memory": math.floor(hosts[0].gpu_ram / 1000),
            "secure": True,
            "community": False,
            "price": {"secure": price, "community": price},
            "maxCount": {"secure": max(o.num_gpus for o in hosts), "community": 0},
        }

    # ---- pods ------------------------------------------------------------------------------------

    def create(self, body: dict, effect: dict) -> dict:
        check(body)
        gpu, volume = body["gpu"], body.get("mounts", {}).get("persistent", {})
        cuda = float(gpu.get("minCudaVersion", 0))
        places = body.get("dataCenterIds", ())
        found = self.hosts(gpu.get("count", 1), cuda, gpu["id"], places)
        if found and effect.get("taken"):
            found.pop(0).taken = True
        if not found or effect.get("taken"):
            raise Refusal(400, NONE_LEFT)
        if self.world.balance < found[0].dph_base:
            raise Refusal(402)
        request = {
            "label": body["name"],
            "image": body["image"],
            "onstart": command(body.get("args", "")),
            "disk": volume.get("size", 0),
            "system": body.get("disk", 20),
            "runtype": "ssh_direc",
            "body": body,
        }
        pod = self.world.create(
            found[0], request, self.plan.take("boot"), effect.get("dearer", 1.0)
        )
        pod.machine.mount = volume.get("path", "")
        if not pod.machine.mount:
            pod.machine.volume = None
        return self.view(pod)

    def list(self, effect: dict) -> dict:
        then = self.world.clock.now() - (effect.get("lag") or 0)
        rows = [self.view(pod) for pod in self.world.live() if pod.created <= then]
        if effect.get("odd"):
            rows = [*ODD_ROWS, *(row | {"runtime": []} for row in rows)]
        return {"pods": rows}

    def act(self, pod: Pod, body: dict):
        action = body.get("action") if isinstance(body, dict) else None
        if action not in ("start", "stop", "restart", "terminate"):
            raise Refusal(422, "", "action")
        if action not in MAY[pod.status]:
            raise Refusal(409)
        if action == "terminate":
            self.world.destroy(pod)
            return 204, ""
        if action == "stop":
            self.world.stop(pod)
        elif action == "restart":
            self.world.reboot(pod)
        elif pod.offer.taken:
            raise Refusal(400, NO_GPU)
        else:
            self.world.start(pod)
        return self.view(pod)

    def view(self, pod: Pod) -> dict:
        body, wire = pod.request["body"], pod.machine.direct
        runs = pod.status == "RUNNING"
        direct = {"host": wire.address, "port": wire.port, "username": "root"}
        direct["command"] = f"ssh root@{wire.address} -p {wire.port}"
        port = {"private": 22, "public": wire.port, "type": "tcp", "ip": wire.address}
        published = runs and "22/tcp" in body.get("ports", ())
        return {
            "id": pod_id(pod),
            "name": body["name"],
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": pod.request["system"],
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": body.get("registry"),
            "status": pod.status,
            "actions": MAY[pod.status],
            "mounts": body.get("mounts", {}),
            "gpu": {"id": body["gpu"]["id"], "count": pod.offer.num_gpus},
            "cloud": "SECURE",
            "dataCenterId": pod.offer.geolocation,
            "cudaVersion": str(pod.offer.cuda_max_good),
            "ssh": {"proxy": None, "direct": direct if published else None},
            "template": None,
            "cost": 0.0 if pod.status == "EXITED" else pod.rates()["dph_base"],
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": {"uptime": 1, "ports": [port]} if published else None,
            "createdAt": datetime.fromtimestamp(pod.created, UTC).isoformat(),
            "startedAt": None,
        }

    def _older(self, body: dict, token: str):
        """The GraphQL API, which answers 200 to what it refuses."""
        if token != self.key:
            return 401, {"errors": [{"message": "Unauthorized"}]}
        try:
            return {"data": self._graphql.run(str(body.get("query", "")))}
        except QueryRefused as refusal:
            return {"errors": [{"message": str(refusal)}], "data": None}
        except Refusal as refusal:
            return {"errors": [{"message": refusal.body["detail"]}], "data": None}


def check(body: dict) -> None:
    """What the service refuses in a create. Raises Refusal."""
    if not isinstance(body, dict):
        raise Refusal(422, "", "$: an object was expected")
    wrong = [f"$: additional properties '{name}' not allowed" for name in set(body) - set(CREATE)]
    for name, value in body.items():
        if not isinstance(value, CREATE.get(name, object)):
            wrong.append(f"{name}: wrong type")
    wrong += [f"{name}: missing" for name in ("name", "image", "gpu") if name not in body]
    gpu = body.get("gpu") if isinstance(body.get("gpu"), dict) else {}
    wrong += [f"gpu: {name}" for name in set(gpu) - GPU]
    volume = body.get("mounts", {}).get("persistent", {"size": 10, "path": "/workspace"})
    if set(volume) != {"size", "path"} or not volume["size"] >= 10:
        wrong.append("mounts.persistent: size of at least 10 and path")
    if body.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY"):
        wrong.append("cloud")
    if wrong:
        raise Refusal(422, "", *wrong)


def command(args: str) -> str:
    """A shell script that does what the service does with `args`: it is split into words."""
    return shlex.join(shlex.split(args)) + "\n" if args else ""


def country(place: str) -> str:
    """The country of a data centre, from its name: EU-RO-1, US-KS-2."""
    first, second = place.split("-")[:2]
    return second if first in ("EU", "EUR", "AP", "OC") else first


def level(hosts: int) -> str:
    return ("NONE", "LOW", "MEDIUM", "HIGH")[min(hosts, 3)]
