"""The service behind the API: contracts, their states over time, their machines and the money."""

import heapq
import itertools
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Machine
from .market import SECONDS_AN_HOUR, Clock, Offer

GIGABYTE = 1e9
MEMORY_CHECK = 0.5  # real seconds
STALE = 20.0  # seconds for which a machine that was outbid is listed as running
KEYS_LAST = 9 * SECONDS_AN_HOUR  # until the service rewrites authorized_keys


@dataclass
class Instance:
    """A contract. `created` to `ends` are seconds of the service's clock."""

    id: int
    offer: Offer
    request: dict
    created: float
    key: str
    machine: Machine
    price: float | None = None  # $/h, of a bid; None: on demand
    actual_status: str | None = None
    intended_status: str = "running"
    cur_state: str = "stopped"
    status_msg: str | None = None
    dearer: float = 1.0  # how many times the price of its offer it costs
    uses_gpu: bool = False  # reached running and was not stopped: the GPU is billed
    online: bool = True
    destroyed: float | None = None
    boots: int = 0
    epoch: int = 0  # counts changes of intent: events of an older one are void
    faults: dict = field(default_factory=dict)  # what a fault planned for the boot
    charges: dict = field(default_factory=dict)  # kind: (seconds, dollars)

    @property
    def disk(self) -> float:
        return float(self.request.get("disk", 10))

    def charge(self, kind: str, hourly: float, hours: float) -> float:
        """Note what `hours` at a price cost; the dollars."""
        seconds, dollars = self.charges.get(kind, (0.0, 0.0))
        if hourly:
            more = (seconds + hours * SECONDS_AN_HOUR, dollars + hourly * hours)
            self.charges[kind] = more
        return hourly * hours

    @property
    def ends(self) -> float:
        return self.created + self.offer.duration

    def rates(self) -> dict:
        base = self.offer.dph_base if self.price is None else self.price
        return self.offer.dph(self.dearer * base, self.disk)

    def hourly(self) -> tuple[float, float]:
        """What is owed now, $/h: (GPU, storage). A host that is offline is owed nothing."""
        if self.destroyed is not None or not self.online:
            return 0.0, 0.0
        rates = self.rates()
        return rates["dph_base"] if self.uses_gpu else 0.0, rates["storage_total_cost"]


class World:
    """Everything that happens, under one lock, in the order of the service's clock.

    `boot_seconds`: when a new contract is created, loading, running. `balance`: dollars at the
    start. Machines live below `home`; without `machines` nothing boots, only the states change.
    `card`: dollars that a saved card is charged when the balance reaches zero; 0: there is none.
    """

    instance_class, machine_class = Instance, Machine

    def __init__(
        self,
        home: Path,
        offers: list[Offer],
        clock: Clock,
        balance: float = 100.0,
        boot_seconds: tuple[float, float, float] = (1, 2, 20),
        visible: tuple = (),
        machines: bool = True,
        card: float = 0.0,
    ):
        self.home, self.clock, self.visible, self.machines = home, clock, visible, machines
        self.offers = {offer.id: offer for offer in offers}
        self.boot_seconds = boot_seconds
        self.began, self.card = clock.now(), card
        self.payments = [(self.began, balance)]
        self.instances: dict[int, Instance] = {}  # destroyed ones too
        self.account_keys: list[str] = []
        self.spent_on = {"gpu": 0.0, "storage": 0.0}  # transfers are counted on their wires
        self.changed = threading.Condition(threading.RLock())
        self._time = clock.now()
        self._events: list[tuple[float, int, Callable]] = []
        self._order = itertools.count()
        self._ids = itertools.count(20_000_001)
        self.closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if machines:
            threading.Thread(target=self._enforce_memory, daemon=True).start()

    # ---- time ------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))
        self.changed.notify_all()

    def catch_up(self) -> float:
        """Let everything happen that is due, each at its own moment; the time now."""
        now = self.clock.now()
        while True:
            due = self._events[0][0] if self._events else now
            until = min(max(due, self._time), now)
            broke = self._time_of_ruin()
            if broke is not None and broke <= until:
                self._settle(broke)
                if self.card:
                    self.payments.append((broke, self.card))
                else:
                    self._stop_all("Your credit is exhausted")
                continue
            self._settle(until)
            if not self._events or due > now:
                return now
            heapq.heappop(self._events)[2]()
            self.changed.notify_all()

    def advance(self, seconds: float) -> None:
        with self.changed:
            self.clock.advance(seconds)
            self.catch_up()
            self.changed.notify_all()

    def _settle(self, until: float) -> None:
        hours = max(0.0, until - self._time) / SECONDS_AN_HOUR
        for instance in self.instances.values():
            for kind, hourly in zip(self.spent_on, instance.hourly(), strict=True):
                self.spent_on[kind] += instance.charge(kind, hourly, hours)
        self._time = max(until, self._time)

    def _time_of_ruin(self) -> float | None:
        """When the balance reaches zero at today's rates, while any GPU is billed."""
        owed = [instance.hourly() for instance in self.instances.values()]
        if not any(gpu for gpu, _ in owed):
            return None
        rate = sum(gpu + storage for gpu, storage in owed)
        return self._time + max(0.0, self.balance) / rate * SECONDS_AN_HOUR

    def _run(self) -> None:
        with self.changed:
            while not self.closed:
                now = self.catch_up()
                due = [t for t in (self._time_of_ruin(), *(e[0] for e in self._events[:1])) if t]
                self.changed.wait(self.clock.real(min(due) - now) if due else None)

    def _enforce_memory(self) -> None:
        """End processes of machines that use more than their share of the host's memory."""
        while not self.closed:
            with self.changed:
                running = [instance for instance in self.live() if instance.machine.alive]
            for instance in running:
                instance.machine.kill_above(instance.offer.host_ram * instance.offer.share)
            time.sleep(MEMORY_CHECK)

    # ---- money -----------------------------------------------------------------------------------

    def transfers(self) -> float:
        """Dollars for what went over the wires."""
        total = 0.0
        for instance in self.instances.values():
            for wire in instance.machine.wires:
                total += wire.sent / GIGABYTE * instance.offer.inet_up_cost
                total += wire.received / GIGABYTE * instance.offer.inet_down_cost
        return total

    @property
    def spent(self) -> float:
        return sum(self.spent_on.values()) + self.transfers()

    @property
    def balance(self) -> float:
        return sum(dollars for _, dollars in self.payments) - self.spent

    # ---- contracts -------------------------------------------------------------------------------

    def live(self) -> list[Instance]:
        return [i for i in self.instances.values() if i.destroyed is None]

    def rented(self, offer: Offer) -> bool:
        return offer.taken or any(i.offer is offer for i in self.live())

    def create(self, offer: Offer, request: dict, faults: dict, dearer: float = 1.0) -> Instance:
        """A new contract on `offer`; `faults`: what shall go wrong with its machine."""
        number = next(self._ids)
        home = self.home / f"C.{number}"
        home.mkdir(parents=True)
        direct = "direc" in request["runtype"] and offer.direct_port_count > 0
        machine = self.machine_class(home, number, offer.facts(), direct, self.visible)
        machine.disk_mb = faults.get("disk_mb")
        machine.clock_offset = faults.get("clock_offset", 0)
        machine.lacks, machine.apt_locked = faults.get("lacks", []), "apt_lock" in faults
        for key in self.account_keys:
            machine.attach(key)
        instance = self.instance_class(
            number, offer, request, self._time, secrets.token_hex(32), machine,
            price=request.get("price"), faults=faults, dearer=dearer,
        )  # fmt: skip
        self.instances[number] = instance
        if request.get("target_state", "running") == "stopped":
            self.stop(instance)
        elif instance.price is None or instance.price >= offer.min_bid:
            self.start(instance)  # too low a bid waits for the price to fall, or the bid to rise
        self.at(instance.ends, lambda: self.stop(instance, "The rental has ended"))
        return instance

    def start(self, instance: Instance) -> None:
        """Towards running: created and loading first, as the fault of its boot allows."""
        if instance.destroyed is not None or instance.cur_state == "running":
            return
        if self._time >= instance.ends:
            return
        if instance.offer.taken and instance.boots:  # it waits until somebody else gives the GPU up
            instance.intended_status = "running"
            return
        instance.intended_status = instance.cur_state = "running"
        instance.epoch += 1
        epoch, faults = instance.epoch, instance.faults
        image = instance.request.get("image", "")
        first = instance.boots == 0
        steps = [("created", None), ("loading", f"{image}: Pulling from registry"), ("running", "")]

        def reach(status: str, message: str | None) -> None:
            if instance.epoch != epoch or instance.destroyed is not None:
                return
            if first and status == "running" and faults.get("status_msg"):
                instance.actual_status = faults.get("status", "loading")
                instance.status_msg = faults["status_msg"]
                return
            instance.actual_status, instance.status_msg = status, message
            if status == "running":
                self._power_on(instance)

        waits = [*self.boot_seconds[:2], self.boot_seconds[2] + first * faults.get("slow", 0)]
        for (status, message), seconds in zip(steps, waits, strict=True):
            if first and "stuck" in faults and faults["stuck"] in (None, "null"):
                break
            self.at(self._time + seconds, lambda s=status, m=message: reach(s, m))
            if first and faults.get("stuck") == status:
                break

    def _power_on(self, instance: Instance) -> None:
        request, machine = instance.request, instance.machine
        instance.uses_gpu, instance.boots = True, instance.boots + 1
        instance.status_msg = f"success, running {request.get('image')}/ssh"
        if not self.machines:
            return
        own = {k: str(v) for k, v in request.get("env", {}).items() if not k.startswith("-")}
        machine.boot(own | self.environment(instance), request.get("onstart") or "")
        self._refresh_keys_later(instance, instance.epoch)
        if machine.apt_locked:
            self.at(self._time + instance.faults["apt_lock"], machine.unlock_apt)
        refused = instance.faults.get("ssh_refused", 0) if instance.boots == 1 else 0
        if "ssh" not in request["runtype"]:
            return
        if not refused:
            machine.wires_up()
        else:
            epoch = instance.epoch
            self.at(
                self._time + refused,
                lambda: instance.epoch == epoch and machine.wires_up(),
            )

    def environment(self, instance: Instance) -> dict[str, str]:
        """The variables that the service gives to a container."""
        direct = instance.machine.direct
        return {
            "CONTAINER_ID": str(instance.id),
            "CONTAINER_API_KEY": instance.key,
            "CONTAINER_LABEL": f"C.{instance.id}",
            "VAST_CONTAINERLABEL": f"C.{instance.id}",
            "PUBLIC_IPADDR": direct.address,
            "VAST_TCP_PORT_22": str(direct.port),
            "GPU_COUNT": str(instance.offer.num_gpus),
            "DATA_DIRECTORY": "/workspace/",
        }

    def _refresh_keys_later(self, instance: Instance, epoch: int) -> None:
        def refresh() -> None:
            if instance.epoch == epoch and instance.machine.alive:
                instance.machine.refresh_keys()
                self._refresh_keys_later(instance, epoch)

        self.at(self._time + KEYS_LAST, refresh)

    def stop(self, instance: Instance, why: str | None = None, intended: str = "stopped") -> None:
        """The GPU is free and unpaid, processes end, the disk stays and is paid.

        The container of a machine that shall be stopped is listed as `exited`, that of one that
        was outbid as `running` for a while and then as `stopped`.
        """
        if instance.destroyed is not None:
            return
        instance.epoch += 1
        instance.uses_gpu = False
        instance.intended_status, instance.cur_state = intended, "stopped"
        instance.status_msg = why or instance.status_msg
        if instance.online and intended == "stopped":
            instance.actual_status = "exited"
        elif instance.online:
            epoch = instance.epoch
            self.at(self._time + STALE, lambda: self._show_stopped(instance, epoch))
        instance.machine.power_off()

    def _show_stopped(self, instance: Instance, epoch: int) -> None:
        if instance.epoch == epoch and instance.online:
            instance.actual_status = "stopped"

    def exit(self, instance: Instance, message: str) -> None:
        """The container ends by itself. Its contract goes on, with the GPU and its price."""
        instance.epoch += 1
        instance.actual_status, instance.status_msg = "exited", message
        instance.machine.power_off()

    def reboot(self, instance: Instance) -> None:
        self.stop(instance)
        self.start(instance)
        instance.actual_status = "rebooting"

    def recycle(self, instance: Instance) -> None:
        """The container is made again from its image: its disk is lost, its contract goes on."""
        self.stop(instance)
        instance.machine.wipe()
        self.start(instance)
        instance.actual_status = "loading"

    def destroy(self, instance: Instance) -> None:
        if instance.destroyed is None:
            instance.destroyed, instance.uses_gpu = self._time, False
            instance.machine.destroy()

    def bid(self, offer: Offer, min_bid: float | None = None) -> None:
        """Hold the auction again, at a new `min_bid` perhaps: who bids less is stopped."""
        offer.min_bid = offer.min_bid if min_bid is None else min_bid
        for instance in self.live():
            if instance.offer is not offer or instance.price is None:
                continue
            if instance.price < offer.min_bid and instance.cur_state == "running":
                self.stop(instance, "Outbid", intended="running")
            elif (
                instance.price >= offer.min_bid
                and instance.cur_state == "stopped"
                and instance.intended_status == "running"
            ):
                self.start(instance)

    def vanish(self, instance: Instance, says: str = "offline", silently: bool = False) -> None:
        """The host is gone with all its processes; `says` is what the service makes of it."""
        instance.epoch += 1
        instance.machine.power_off(silently)
        if says != "running":
            instance.actual_status, instance.online, instance.uses_gpu = says, False, False

    def come_back(self, instance: Instance) -> None:
        """The vanished host boots again, with its disk."""
        instance.machine.power_off()
        instance.online, instance.uses_gpu, instance.cur_state = True, False, "stopped"
        self.start(instance)

    def _stop_all(self, why: str) -> None:
        for instance in self.live():
            if instance.uses_gpu:
                self.stop(instance, why)

    def close(self) -> None:
        """Destroy every machine and end the thread."""
        with self.changed:
            self.closed = True
            for instance in self.live():
                self.destroy(instance)
            self.changed.notify_all()
        self._thread.join()
