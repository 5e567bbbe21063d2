"""What the executor reads of Vast.ai's answers: fields and their JSON types, once, as data.

The unit tests compare the fake's answers with it, and `make smoke-vast` those of the service.
`scrubbed` makes a fixture of an answer: values that are not known to be harmless are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Value:
    """A JSON value of one type. A fixture has `instead`, or the value itself if it is `kept`."""

    kind: type | tuple[type, ...]
    instead: Any = None
    kept: str = ""  # texts that match this pattern are kept

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind) and (
            self.kind is bool or not isinstance(value, bool)  # in Python true is a number
        )

    def harmless(self, value: Any) -> Any:
        harmless = self.instead is None or isinstance(value, str) and re.fullmatch(self.kept, value)
        return value if harmless else self.instead


@dataclass(frozen=True)
class Maybe:
    """A value that may be null."""

    shape: Any


ID, FLAG, COUNT, NUMBER = Value(int, 1), Value(bool), Value(int), Value((int, float))
TEXT, WORD = Value(str, ""), Value(str, "other", "[a-z_]+")  # a word of the service's own

# A dict has these fields and any others; one that ends with ? may be absent. A list has one shape.
OFFER = {
    "ask_contract_id?": ID,
    "id": ID,
    "machine_id": ID,
    "gpu_name": Value(str, "RTX 4090"),
    "num_gpus": COUNT,
    "gpu_ram": NUMBER,  # MB, as is cpu_ram
    "gpu_frac": NUMBER,
    "cpu_ram": NUMBER,
    "cpu_cores": Maybe(NUMBER),
    "cpu_cores_effective": Maybe(NUMBER),
    "disk_space": NUMBER,  # GB
    "dph_total": NUMBER,  # dollars per hour
    "min_bid": NUMBER,
    "storage_cost": NUMBER,  # dollars per GB and month
    "inet_up_cost": NUMBER,  # dollars per GB
    "inet_down_cost": NUMBER,
    "reliability2": NUMBER,
    "reliability?": NUMBER,
    "score": NUMBER,
    "geolocation": Maybe(Value(str, "Poland, PL")),
}
INSTANCE = {
    "id": ID,
    "label": Maybe(Value(str, "label")),
    "actual_status": Maybe(WORD),
    "intended_status": Maybe(WORD),
    "cur_state": Maybe(WORD),
    "next_state": Maybe(WORD),
    "status_msg": Maybe(TEXT),
    "machine_id": ID,
    "dph_total": NUMBER,
    "storage_total_cost": NUMBER,  # dollars per hour of its disk
    "is_bid": FLAG,
    "ports": Maybe({"22/tcp?": [{"HostPort": Value(str, "22")}]}),
    "public_ipaddr": Maybe(Value(str, "192.0.2.1")),
    "ssh_host": Maybe(Value(str, "ssh.example.org")),
    "ssh_port": Maybe(Value(int, 22)),
}
ROWS = 2  # of a list, in a fixture
DONE = {"success": FLAG}
# name of an answer: its status code and its body
ANSWERS: dict[str, tuple[int, Any]] = {
    "search": (200, {"offers": [OFFER]}),
    "create": (200, DONE | {"new_contract": ID, "instance_api_key": TEXT}),
    "list": (200, {"instances": [INSTANCE], "next_token?": Maybe(TEXT)}),
    "show": (200, {"instances": INSTANCE}),
    "switch": (200, DONE),  # the call of the dead-man switch, with the key of its machine
    "stop": (200, DONE),
    "start": (200, DONE),
    "wrong-key": (404, {"error": Value(str, "another error", "auth_error")}),
    "destroy": (200, DONE),
}


def differences(name: str, status: int, body: Any) -> list[str]:
    """How an answer differs from the contract, one line each."""
    expected, shape = ANSWERS[name]
    found = [] if status == expected else [f"{name}: status {status}, {expected} was expected"]
    return found + list(_differences(name, body, shape))


def _differences(place: str, value: Any, shape: Any) -> Iterator[str]:
    if isinstance(shape, Maybe):
        if value is not None:
            yield from _differences(place, value, shape.shape)
    elif isinstance(shape, Value):
        if not shape.fits(value) or shape.kept and shape.harmless(value) != value:
            yield f"{place}: {_kind(value)}, which is not what the executor reads"
    elif not isinstance(value, type(shape)):
        yield f"{place}: {_kind(value)}, {_kind(shape)} was expected"
    elif isinstance(shape, list):
        for number, element in enumerate(value):
            yield from _differences(f"{place}[{number}]", element, shape[0])
    else:
        for name, inner in shape.items():
            if (key := name.rstrip("?")) in value:
                yield from _differences(f"{place}.{key}", value[key], inner)
            elif key == name:
                yield f"{place}.{key}: it is missing"


def _kind(value: Any) -> str:
    """The type of a JSON value. The value itself may be a secret."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def scrubbed(name: str, body: Any) -> Any:
    """An answer as a fixture: what is not in the contract keeps its name and its type alone."""
    return _scrubbed(body, ANSWERS[name][1])


def _scrubbed(value: Any, shape: Any) -> Any:
    if isinstance(shape, Maybe) and value is not None:
        return _scrubbed(value, shape.shape)
    if isinstance(shape, Value) and shape.fits(value):
        return shape.harmless(value)
    if isinstance(shape, list) and isinstance(value, list):
        return [_scrubbed(element, shape[0]) for element in value[:ROWS]]
    if isinstance(shape, dict) and isinstance(value, dict):
        return {key: _scrubbed(v, shape.get(key, shape.get(f"{key}?"))) for key, v in value.items()}
    return value if value is None or isinstance(value, bool) else type(value)()
