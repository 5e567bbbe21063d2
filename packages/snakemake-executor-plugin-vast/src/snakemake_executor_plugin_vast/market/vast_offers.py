"""Searches, offers and orders in the fields of Vast.ai's API. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .protocol import Offer, Order, Requirements, SearchRules


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
