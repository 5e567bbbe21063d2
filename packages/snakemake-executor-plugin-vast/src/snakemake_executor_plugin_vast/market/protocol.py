"""What the executor needs of a market for machines: the calls, their values and their errors.

Everything outside `market/` uses these types alone, so a second market is one new module.
Units are the same everywhere: memory in MB, disk in GB, time in seconds, money in dollars, prices
in dollars per hour.

The type of an error distinguishes its causes. `OfferGone`: somebody else rented it first.
`Refused`: the same request will never work. `AccountRefused`: nor will a request for another offer.
`Unavailable`: try again later. `LostReply`: a machine may have been rented, and only the list of
instances can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Status = Literal["starting", "running", "stopped", "offline"]
MachineId = int | str  # what a market calls a rented machine


class MarketError(Exception):
    """A call to the market failed; the message has the request and the answer."""


class NoKey(MarketError):
    """The market's API key was not found on this computer."""


class OfferGone(MarketError):
    """The offer no longer exists."""


class Refused(MarketError):
    """The request is wrong or not allowed, so repeating it does not help."""


class AccountRefused(Refused):
    """The key, the credit or a quota of the account does not allow it, whatever is requested."""


class Unavailable(MarketError):
    """The market did not do it now: too many requests, a server error or no connection."""


class LostReply(MarketError):
    """A machine was ordered and no answer came: it may exist."""


@dataclass(frozen=True)
class Requirements:
    """What a job needs of a machine, and what the machine may cost."""

    gpus: int = 1
    gpu_models: tuple[str, ...] = ()  # any of these, such as H100_SXM; empty: every model
    gpu_mem_mb: int = 0  # of one GPU
    mem_mb: int = 0
    disk_gb: int = 40
    seconds: float = 3600.0  # the job is ended after this time
    max_price: float = 5.0  # dollars per hour, disk and transfers included
    interruptible: bool = False  # bid for a machine that somebody else may outbid
    upload_gb: float = 0.0  # per hour, from the machine; some hosts charge for it
    download_gb: float = 0.0  # per hour, to the machine


@dataclass(frozen=True)
class SearchRules:
    """Conditions of every search of a run."""

    reliability: float = 0.98
    cuda: float = 12.8  # least CUDA version that the host's driver supports
    regions: tuple[str, ...] = ()  # two-letter country codes; empty: every country
    download_mbit: float = 200.0  # per second
    datacenter: bool = False
    bid_factor: float = 1.2  # a bid is the lowest one times this
    rank: Literal["price", "score"] = "price"  # which offers come first


@dataclass(frozen=True)
class Offer:
    """A machine that can be rented now."""

    id: int
    machine_id: int  # stays the same when the machine is offered again; 0: not known
    gpu_name: str
    gpus: int
    gpu_mem_mb: float  # of one GPU
    mem_mb: float  # this machine's part of its host's memory; 0: not known
    disk_gb: float
    price: float  # on demand, with the disk that the search asked for
    lowest_bid: float = 0.0  # without disk; 0: no bid is accepted
    storage_price: float = 0.0  # dollars per GB and month
    upload_price: float = 0.0  # dollars per GB from the machine
    download_price: float = 0.0  # dollars per GB to the machine
    reliability: float = 1.0
    score: float = 0.0  # the market's own measure of what the price buys; more is better
    location: str = ""
    market: str = ""  # whose offer it is, where several markets are searched
    reference: str = ""  # the market's own words for it, where the number is not enough
    many: bool = False  # stands for several machines, so it can be rented again at once
    keeps_disk: bool = True  # a stop keeps the whole disk; False: `Order.keep` alone


@dataclass(frozen=True)
class Order:
    """What a machine is rented with. It holds no secret: everybody with the account can read it."""

    label: str
    image: str
    disk_gb: int
    start_script: str  # a shell script that the machine runs as root at each start
    bid: float | None = None  # None: on demand
    keep: str = ""  # the folder whose files must outlive a stop


@dataclass(frozen=True)
class Instance:
    """A rented machine as the market lists it."""

    id: MachineId
    label: str
    status: Status
    message: str  # the market's own words
    machine_id: int
    price: float
    interruptible: bool
    addresses: tuple[tuple[str, int], ...] = ()  # of its ssh server, in the order to try them
    failed: bool = False  # the message says that it will never start
    disk_price: float = 0.0  # the part of `price` that is billed while the machine is stopped


class Market(Protocol):
    """A market for machines.

    A call that can be repeated safely repeats itself when the market is unavailable; `create`
    never does. All calls may come from several threads, and all may raise MarketError.
    """

    def machine_control(self, offer: Offer) -> str:
        """Source of a Python module with functions `stop()`, `destroy()` and `check()`.

        It is installed on a machine of this offer and ends the machine that it runs on, so it needs
        nothing but the standard library and must work without this computer. `check` changes
        nothing. It raises an OSError if the others would fail now, and KeyError without their
        variables.
        """
        ...

    def search(self, requirements: Requirements, rules: SearchRules) -> list[Offer]:
        """Offers that may meet the requirements; `selection.rank` checks them again."""
        ...

    def create(self, offer: Offer, order: Order) -> MachineId:
        """Rent a machine; its instance id. Raises OfferGone, Refused, Unavailable or LostReply."""
        ...

    def instances(self, prefix: str = "") -> list[Instance]:
        """The instances whose labels begin with `prefix`.

        An account may hold other people's instances, in any form. No field of these is read.
        """
        ...

    def instance(self, id: MachineId) -> Instance | None:
        """One instance, or None when it no longer exists."""
        ...

    def destroy(self, id: MachineId) -> None:
        """Request the end of an instance; it has ended once `instances` no longer lists it."""
        ...

    def start(self, id: MachineId) -> None:
        """Start a stopped instance."""
        ...

    def stop(self, id: MachineId) -> None:
        """Stop an instance. Its disk stays, and is billed; a start that is under way is undone."""
        ...

    def reboot(self, id: MachineId) -> None:
        """Restart a running instance."""
        ...

    def credit(self) -> float | None:
        """Dollars that the account has; None if the market does not tell this key."""
        ...

    def attach_key(self, id: MachineId, public_key: str) -> None:
        """Let the holder of an ssh key log in as root.

        A market has nothing to do whose machines keep the key that their start script lets in.
        """
        ...
