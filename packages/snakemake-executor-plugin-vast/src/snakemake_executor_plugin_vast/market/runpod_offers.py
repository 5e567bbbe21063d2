"""Searches, offers and orders in the fields of RunPod's API v2. Pure functions."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from .http import UNREADABLE
from .protocol import Offer, Order, Requirements, SearchRules
from .selection import HOURS_PER_MONTH, model_name

# Dollars per GB and month, from https://docs.runpod.io/pods/pricing
DISK_PRICE, STOPPED_DISK_PRICE = 0.10, 0.20
# The disk of the image's own system, which a stop erases: for what `setup` installs, and caches.
SYSTEM_GB = 50
LEAST_GB = 10  # of a disk that outlives a stop
# Models that RunPod and Vast.ai name differently. Jobs use the names of Vast.ai.
NAMES = {"A100 SXM": "A100 SXM4", "H200 SXM": "H200"}
# RunPod starts nothing in a container but this command: no ssh server, and no script of ours. The
# server's key is on the disk that outlives a stop, by which the driver identifies the machine.
COMMAND = """\
mkdir -p {keys} /run/sshd && chmod 700 {keys}
(
{script}) < /dev/null > /var/log/onstart.log 2>&1 &
apt='apt-get -qy -oDPkg::Lock::Timeout=60'
until command -v sshd > /dev/null; do
    $apt update; $apt install openssh-server; sleep 5
done < /dev/null
[ -e {keys}/host ] || ssh-keygen -qt ed25519 -N '' -f {keys}/host
$(command -v sshd) -h {keys}/host
sleep infinity &
wait $!
"""


def search_query(requirements: Requirements, rules: SearchRules) -> dict[str, Any]:
    """The parameters of a read of the catalogue.

    Machines of the secure cloud alone are rented. Only they have a public address for certain.
    """
    query: dict[str, Any] = {
        "include": "AVAILABILITY",
        "product": "POD",
        "count": requirements.gpus,
        "cloud": "SECURE",
    }
    if rules.cuda:
        query["minCudaVersion"] = f"{rules.cuda:g}"
    if rules.regions:
        query["countryCodes"] = ",".join(rules.regions)
    return query


def read_offers(
    raw: Mapping[str, Any], requirements: Requirements, rules: SearchRules
) -> list[Offer]:
    """The offers of a GPU type: one for each data centre that has it."""
    name = str(raw["name"])
    wanted = {model_name(model) for model in requirements.gpu_models}
    if wanted and model_name(NAMES.get(name, name)) not in wanted:
        return []
    if raw["manufacturer"] != "NVIDIA" or int(raw["maxCount"]["secure"]) < requirements.gpus:
        return []
    return list(_offers(raw, NAMES.get(name, name), requirements, rules))


def _offers(
    raw: Mapping[str, Any], name: str, requirements: Requirements, rules: SearchRules
) -> Iterator[Offer]:
    disks = requirements.disk_gb + SYSTEM_GB
    price = requirements.gpus * float(raw["price"]["secure"]) + disk_rate(disks)
    for place in raw.get("dataCenters") or ():
        with contextlib.suppress(*UNREADABLE):  # one odd entry hides no other
            if place["availability"] not in ("LOW", "MEDIUM", "HIGH"):
                continue
            facts = {"gpu": str(raw["id"]), "place": str(place["id"])}
            facts |= {"cuda": f"{rules.cuda:g}"} if rules.cuda else {}
            reference = json.dumps(facts, sort_keys=True)
            digest = hashlib.sha256(f"{reference} {requirements.gpus}".encode()).digest()
            yield Offer(
                id=int.from_bytes(digest[:6], "big"),
                machine_id=0,  # which machine it will be is not told
                gpu_name=name,
                gpus=requirements.gpus,
                gpu_mem_mb=1000.0 * int(raw["memory"]),
                mem_mb=0.0,  # not in the answer
                disk_gb=float(requirements.disk_gb),  # as much as is asked for
                price=price,
                storage_price=DISK_PRICE,
                location=str(place["id"]),
                reference=reference,
                many=True,
                keeps_disk=False,
            )


def disk_rate(gigabytes: float, price: float = DISK_PRICE) -> float:
    """Dollars per hour of a disk."""
    return gigabytes * price / HOURS_PER_MONTH


def order_body(offer: Offer, order: Order, registry: str = "") -> dict[str, Any]:
    """The body of a create."""
    facts = json.loads(offer.reference)
    gpu = {"id": facts["gpu"], "count": offer.gpus}
    gpu |= {"minCudaVersion": facts["cuda"]} if "cuda" in facts else {}
    body: dict[str, Any] = {
        "name": order.label,
        "image": order.image,
        "args": start_command(order),
        "cloud": "SECURE",
        "dataCenterIds": [facts["place"]],
        "gpu": gpu,
        "disk": SYSTEM_GB,
        "mounts": {"persistent": {"size": max(LEAST_GB, order.disk_gb), "path": order.keep}},
        "ports": ["22/tcp"],
    }
    return body | ({"registry": registry} if registry else {})


def start_command(order: Order) -> str:
    """The command of the container, packed, since RunPod splits it into words."""
    keys = shlex.quote(f"{order.keep}/.snakemake/vast/ssh")
    script = COMMAND.format(keys=keys, script=order.start_script)
    packed = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
    return f"bash -c 'echo {packed} | base64 -d | gunzip > /start.sh; exec bash /start.sh'"
