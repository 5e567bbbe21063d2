"""As much of the older GraphQL API as RunPod's official client 1.12.0 calls, and the balance."""

import re

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_]\w*|-?\d+(?:\.\d+)?|[{}()\[\]:]')
STATUS = {"PROVISIONING": "RUNNING", "STARTING": "RUNNING", "ERROR": "RUNNING"}


class QueryRefused(Exception):
    """The message of an error."""


class GraphQL:
    """Runs queries on the pods of an `Api`."""

    def __init__(self, api):
        self.api = api

    def run(self, text: str) -> dict:
        fields = parse(text)
        return {name: select(self._field(name, given), of) for name, given, of in fields}

    def _field(self, name: str, given: dict):
        given = given.get("input", {})
        if name == "myself":
            pods = [self._pod(pod) for pod in self.api.world.live()]
            balance = self.api.world.balance
            return {"id": "user_1", "pubKey": "", "networkVolumes": [], "pods": pods} | {
                "clientBalance": balance
            }
        if name == "gpuTypes":
            rows = [self._gpu(row) for row in self.api.search({})["gpus"]]
            return [row for row in rows if given.get("id") in (None, row["id"])]
        if name == "pod":
            return self._pod(self.api.pod(given["podId"]))
        if name == "podFindAndDeployOnDemand":
            return self._deploy(given)
        if name == "podStop":
            self.api.act(self.api.pod(given["podId"]), {"action": "stop"})
        elif name == "podResume":
            self.api.act(self.api.pod(given["podId"]), {"action": "start"})
        elif name == "podTerminate":
            self.api.world.destroy(self.api.pod(given["podId"]))
            return None
        else:
            raise QueryRefused(f'Cannot query field "{name}" on type "Query".')
        return self._pod(self.api.pod(given["podId"]))

    def _deploy(self, given: dict) -> dict:
        body = {"name": given["name"], "image": given["imageName"]}
        body |= {"args": given.get("dockerArgs", ""), "disk": given.get("containerDiskInGb", 10)}
        body |= {"gpu": {"id": given["gpuTypeId"], "count": given.get("gpuCount", 1)}}
        body |= {"ports": [port for port in (given.get("ports") or "").split(",") if port]}
        body |= {"env": {pair["key"]: pair["value"] for pair in given.get("env", [])}}
        if place := given.get("dataCenterId"):
            body["dataCenterIds"] = [place]
        if size := given.get("volumeInGb"):
            mount = {"size": max(10, size), "path": given["volumeMountPath"]}
            body["mounts"] = {"persistent": mount}
        made = self.api.create(body, {})
        return self._pod(self.api.pod(made["id"]))

    def _gpu(self, row: dict) -> dict:
        price = row["price"]["secure"]
        lowest = {"minimumBidPrice": price / 2, "uninterruptablePrice": price}
        unknown = dict.fromkeys(("oneMonthPrice", "threeMonthPrice", "oneWeekPrice", "cudaCores"))
        spot = {"communitySpotPrice": price / 2, "secureSpotPrice": price / 2}
        return unknown | spot | {
            "id": row["id"], "displayName": row["name"], "manufacturer": "Nvidia",
            "memoryInGb": row["memory"], "maxGpuCount": row["maxCount"]["secure"],
            "secureCloud": True, "communityCloud": False, "securePrice": price,
            "communityPrice": price, "lowestPrice": lowest,
        }  # fmt: skip

    def _pod(self, pod) -> dict:
        row = self.api.view(pod)
        runtime = None
        if row["runtime"]:
            ports = [
                {"ip": port["ip"], "isIpPublic": True, "privatePort": port["private"]}
                | {"publicPort": port["public"], "type": port["type"]}
                for port in row["runtime"]["ports"]
            ]
            runtime = {"ports": ports}
        volume = row["mounts"].get("persistent", {})
        names = ("dockerId", "lastStatusChange", "memoryInGb", "port", "uptimeSeconds", "vcpuCount")
        return dict.fromkeys(names) | {
            "id": row["id"], "name": row["name"], "imageName": row["image"],
            "desiredStatus": STATUS.get(row["status"], row["status"]), "costPerHr": row["cost"],
            "containerDiskInGb": row["disk"], "dockerArgs": row["args"], "podType": "RESERVED",
            "env": [f"{name}={value}" for name, value in row["env"].items()],
            "gpuCount": row["gpu"]["count"], "ports": ",".join(row["ports"]), "runtime": runtime,
            "volumeInGb": volume.get("size", 0), "volumeMountPath": volume.get("path", ""),
            "machineId": f"host{pod.offer.machine_id}",
            "machine": {
                "gpuDisplayName": pod.offer.gpu_name, "podHostId": f"{row['id']}-6441"
            },
        }  # fmt: skip


def parse(text: str) -> list[tuple[str, dict, list]]:
    """The fields of a query: each a name, its arguments and its own fields."""
    words = TOKEN.findall(text)
    while words and words[0] != "{":  # `query NAME`
        words.pop(0)
    if not words:
        raise QueryRefused("Syntax Error: Unexpected <EOF>.")
    return _fields(words)


def _fields(words: list[str]) -> list[tuple[str, dict, list]]:
    _next(words, "{")
    found = []
    while words[0] != "}":
        name, given = words.pop(0), {}
        if words[0] == "(":
            given = _object(words, "(", ")")
        found.append((name, given, _fields(words) if words[0] == "{" else []))
    _next(words, "}")
    return found


def _object(words: list[str], begin: str, end: str) -> dict:
    _next(words, begin)
    found = {}
    while words[0] != end:
        name = words.pop(0)
        _next(words, ":")
        found[name] = _value(words)
    _next(words, end)
    return found


def _value(words: list[str]):
    if words[0] == "{":
        return _object(words, "{", "}")
    if words[0] == "[":
        words.pop(0)
        found = []
        while words[0] != "]":
            found.append(_value(words))
        words.pop(0)
        return found
    word = words.pop(0)
    if word.startswith('"'):
        return word[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if word in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[word]
    return float(word) if "." in word else int(word) if word.lstrip("-").isdigit() else word


def _next(words: list[str], expected: str) -> None:
    if not words or words.pop(0) != expected:
        raise QueryRefused(f"Syntax Error: expected {expected}.")


def select(value, fields: list):
    """The named fields of an answer. Raises QueryRefused for one that does not exist."""
    if isinstance(value, list):
        return [select(one, fields) for one in value]
    if value is None or not fields:
        return value
    if missing := [name for name, *_ in fields if name not in value]:
        raise QueryRefused(f'Cannot query field "{missing[0]}".')
    return {name: select(value[name], of) for name, _, of in fields}
