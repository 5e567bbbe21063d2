"""What is for rent: offers, the clock they are paid by, and the filters of a search."""

import threading
import time
from dataclasses import dataclass, field

COMPUTE_CAP = {"RTX 4090": 890, "RTX 3090": 860, "A100 SXM4": 800}  # others: 900
HOURS_A_MONTH = 30 * 24  # storage is priced in $/GB/month
SECONDS_AN_HOUR = 3600
SECONDS_A_DAY = 24 * SECONDS_AN_HOUR  # the service's days begin at midnight UTC


class Clock:
    """The service's time, in seconds of the epoch: `scale` of its seconds pass in one real second.

    With `scale` 0 it stands still, and moves by `advance` alone.
    """

    def __init__(self, scale: float = 1.0):
        self.scale = scale
        self._lock = threading.Lock()
        self._base, self._since = time.time(), time.monotonic()

    def now(self) -> float:
        with self._lock:
            return self._base + (time.monotonic() - self._since) * self.scale

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._base += seconds

    def real(self, seconds: float) -> float | None:
        """How long `seconds` of this clock take in real seconds; None: for ever."""
        return max(0.0, seconds) / self.scale if self.scale else None


@dataclass
class Offer:
    """A machine's ask. Prices: $/h, storage $/GB/month, transfers $/GB; rates Mbit/s, memory MB."""

    id: int
    machine_id: int
    gpu_name: str = "RTX 4090"
    num_gpus: int = 1
    gpu_ram: int = 24564
    dph_base: float = 0.30
    min_bid: float = 0.15
    storage_cost: float = 0.15
    inet_up_cost: float = 0.002
    inet_down_cost: float = 0.001
    reliability: float = 0.99
    cuda_max_good: float = 12.8
    driver_version: str = "570.86.15"
    disk_space: float = 500.0
    inet_up: float = 700.0
    inet_down: float = 800.0
    duration: float = 30 * 24 * 3600.0
    geolocation: str = "Poland, PL"
    direct_port_count: int = 100
    host_gpus: int = 4  # a machine has the share of the host's cores and memory that its GPUs are
    host_cores: int = 64
    host_ram: int = 515_000
    datacenter: bool = True
    taken: bool = False  # by somebody else
    more: dict = field(default_factory=dict)

    @property
    def share(self) -> float:
        return min(1.0, self.num_gpus / self.host_gpus)

    def dph(self, base: float, gigabytes: float) -> dict:
        """The parts of a price, $/h, and their sum."""
        storage = self.storage_cost * gigabytes / HOURS_A_MONTH
        return {"dph_base": base, "storage_total_cost": storage, "dph_total": base + storage}

    def facts(self) -> dict:
        """What offers and instances of this machine both show."""
        return {
            "machine_id": self.machine_id,
            "host_id": 1000 + self.machine_id,
            "bundle_id": 9000 + self.id,
            "gpu_name": self.gpu_name,
            "num_gpus": self.num_gpus,
            "gpu_ram": self.gpu_ram,
            "gpu_totalram": self.gpu_ram * self.num_gpus,
            "gpu_arch": "nvidia",
            "compute_cap": COMPUTE_CAP.get(self.gpu_name, 900),
            "total_flops": 80.0 * self.num_gpus,
            "gpu_frac": self.share,
            "cpu_arch": "amd64",
            "cpu_name": "AMD EPYC 7543 32-Core Processor",
            "cpu_cores": self.host_cores,
            "cpu_cores_effective": self.host_cores * self.share,
            "cpu_ram": self.host_ram,
            "cuda_max_good": self.cuda_max_good,
            "driver_version": self.driver_version,
            "reliability2": self.reliability,
            "inet_up": self.inet_up,
            "inet_down": self.inet_down,
            "inet_up_cost": self.inet_up_cost,
            "inet_down_cost": self.inet_down_cost,
            "storage_cost": self.storage_cost,
            "min_bid": self.min_bid,
            "geolocation": self.geolocation,
            "direct_port_count": self.direct_port_count,
            "verification": "verified",
            "hosting_type": int(self.datacenter),
            "static_ip": True,
            "dlperf": 80.0,
            "pcie_bw": 20.0,
            "disk_bw": 2000.0,
            "disk_name": "nvme",
            **self.more,
        }

    def view(self, gigabytes: float, bid: bool, rented: bool, now: float) -> dict:
        """The offer as a search shows it, with `gigabytes` of storage in its price."""
        return {
            "id": self.id,
            "ask_contract_id": self.id,
            "is_bid": bid,
            "type": "bid" if bid else "on-demand",
            "disk_space": self.disk_space,
            "duration": self.duration,
            "start_date": now,
            "end_date": now + self.duration,
            "rentable": not rented,
            "rented": rented,
            "external": False,
            "verified": True,
            "datacenter": self.datacenter,
            "reliability": self.reliability,
            **self.facts(),
            **self.dph(self.min_bid if bid else self.dph_base, gigabytes),
        }


def default_offers() -> list[Offer]:
    """A small market: three 4090s, a pair of them, an A100, two H100s, and a bad cheap one."""
    h100 = {"gpu_name": "H100 SXM", "gpu_ram": 81559, "min_bid": 1.1}
    return [
        Offer(501, 7, dph_base=0.30, min_bid=0.15),
        Offer(502, 8, dph_base=0.32, min_bid=0.16, geolocation="Czechia, CZ"),
        Offer(503, 9, dph_base=0.34, min_bid=0.17, geolocation="Texas, US"),
        Offer(504, 10, dph_base=0.66, min_bid=0.33, num_gpus=2),
        Offer(505, 11, "A100 SXM4", gpu_ram=81920, dph_base=0.90, min_bid=0.50),
        Offer(506, 12, dph_base=2.10, geolocation="Sweden, SE", **h100),
        Offer(507, 13, dph_base=2.20, geolocation="Norway, NO", **h100),
        Offer(508, 14, dph_base=0.10, min_bid=0.05, cuda_max_good=11.8, reliability=0.80),
    ]


COMPARE = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
    "nin": lambda a, b: a not in b,
}


def select(rows: list[dict], filters: dict) -> list[dict]:
    """The rows that pass every `{field: {operator: value}}`; ValueError for what does not exist."""
    for name, conditions in filters.items():
        if not isinstance(conditions, dict) or set(conditions) - set(COMPARE):
            raise ValueError(f"{name}: expected {{operator: value}}, found {conditions!r}")
        if rows and name not in rows[0]:
            raise ValueError(f"no such field: {name}")
        rows = [
            row
            for row in rows
            if row[name] is not None
            and all(_passes(name, row[name], op, value) for op, value in conditions.items())
        ]
    return rows


def _passes(name: str, value, operator: str, wanted) -> bool:
    if name == "geolocation":
        value = value.rsplit(", ", 1)[-1]  # by country code
    if name == "driver_version":
        value, wanted = _version(value), _version(wanted)
    if isinstance(value, int | float) and not isinstance(value, bool):
        wanted = list(map(_number, wanted)) if isinstance(wanted, list) else _number(wanted)
    return COMPARE[operator](value, wanted)


def _version(value) -> int:
    """570.86.15 as 570086015, the form in which the official client sends it."""
    return int("".join(part.zfill(3) for part in value.split("."))) if "." in str(value) else value


def _number(value):
    """The official client sends most numbers as text."""
    return float(value) if isinstance(value, str) else value
