"""From a wish to a machine that is ready for its first job."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import ledger as books
from . import offers
from .api import Instance, LostReply, NoSuchOffer, Offer, Refused, Unavailable, Vast, VastError
from .clock import Clock
from .keeper import EVERY, Keeper
from .offers import Market, Wish
from .transport import Denied, Failed, Keyring, Transport, Unreachable
from .watch import Limits

BOOTS = 6  # machines that may fail to come up for one job
ROUNDS = 10  # searches that may find nothing, a minute apart
MINUTE = 60.0


class Lost(Exception):
    """The machine is of no use (any more): `why` in one word, and what was seen."""

    def __init__(self, why: str, detail: str = ""):
        super().__init__(f"{why}: {detail}" if detail else why)
        self.why = why


class NothingToRent(Exception):
    """No offer fits, or none that fits came up."""


class OverBudget(Exception):
    """Renting more would take the run over its budget."""


class Closing(Exception):
    """The run is being ended."""


@dataclass(frozen=True)
class Site:
    """What every machine of a run gets. Paths are absolute and the same on both sides."""

    workdir: str
    image: str
    setup: str  # run once a machine, in the working directory
    activate: str  # run before setup's checks and before each job
    smoke: str  # must succeed before the first job
    sources: Callable[[], list[str]]  # relative paths
    silent: float  # seconds after which a machine takes its driver for dead
    later: float  # seconds that a machine so stopped is kept
    longest: float  # seconds that a machine may live
    login: str = ""
    bucket: str = ""  # where states go instead of home
    access: dict[str, str] = field(default_factory=dict, repr=False)  # what opens the bucket

    @property
    def folder(self) -> str:
        """Where the machine keeps what is the executor's."""
        return f"{self.workdir}/.snakemake/vast/jobs"


@dataclass
class Machine:
    """A machine that is ours; `rented` on the plugin's clock."""

    label: str
    offer: Offer
    wish: Wish
    dph: float
    rented: float
    id: int = 0
    transport: Transport | None = None
    holds: dict[str, tuple] = field(default_factory=dict)  # path: what was there when it was sent
    over: threading.Event = field(default_factory=threading.Event)

    def serves(self, wish: Wish) -> bool:
        return offers.serves(self.offer, self.wish.disk_gb, self.wish.interruptible, wish)


def onstart(site: Site, key: str, url: str, clock: Clock, grace: float) -> str:
    """The start script: our key, and the dead-man switch. At most 4096 characters, no secrets."""
    code = (Path(__file__).parent / "deadman.py").read_text().partition('"""\n\n')[2]
    folder = shlex.quote(site.folder)
    tick = max(0.5, clock.real(min(60.0, site.silent / 10)))
    times = [clock.real(t) for t in (site.silent, grace, site.later, site.longest)]
    numbers = " ".join(f"{t:.1f}" for t in [*times, tick])
    return (
        f"mkdir -p {folder} ~/.ssh && cd {folder} && touch ~/.no_auto_tmux lease\n"
        f"grep -qsF '{key}' ~/.ssh/authorized_keys || echo '{key}' >> ~/.ssh/authorized_keys\n"
        f"cat > deadman.py <<'END'\n{code}END\n"
        f"nohup python3 deadman.py . {shlex.quote(url)} {numbers} > /dev/null 2>&1 &\n"
        "command -v rsync > /dev/null || (apt-get update -q && apt-get install -qy rsync)\n"
    )


class Renter:
    """Searches, rents within the budget, and brings machines up."""

    def __init__(
        self,
        api: Vast,
        keeper: Keeper,
        ledger: books.Ledger,
        clock: Clock,
        keys: Keyring,
        site: Site,
        market: Market,
        limits: Limits,
        budget: float | None,
        closing: threading.Event,
        log: Callable[[str], None],
        first: Callable[[], None] = lambda: None,
    ):
        self.api, self.keeper, self.ledger, self.clock, self.keys = api, keeper, ledger, clock, keys
        self.site, self.market, self.limits, self.budget = site, market, limits, budget
        self.closing, self.log, self._first = closing, log, first
        self.machines: dict[str, Machine] = {}
        self._why: dict[str, str] = {}
        self._used: set[int] = set()
        self._bad: set[int] = books.bad_machines(books.read(ledger.path), clock.wall())
        self._slots, self._one_at_a_time, self._refusal = 0, threading.Lock(), ""
        self._purse = threading.Lock()  # from the look at the budget to the promise
        keeper.ended = self._ended

    # ---- renting -----------------------------------------------------------------------------

    def rent(self, wish: Wish, slot: int) -> Machine:
        """A machine that is up, set up and tested. Raises NothingToRent, OverBudget, Closing."""
        problem = ""
        for _ in range(BOOTS):
            machine = self._contract(wish, slot)
            try:
                self._bring_up(machine)
                return machine
            except Lost as lost:
                problem = str(lost)
                self.log(f"{machine.label}: {problem}; another machine")
                self.end(machine, lost.why)
            except BaseException:
                self.end(machine, "ended")
                raise
        raise NothingToRent(f"{BOOTS} machines did not come up; the last: {problem}")

    def _contract(self, wish: Wish, slot: int) -> Machine:
        found, asked, self._refusal = 0, offers.query(wish, self.market), ""
        for _ in range(ROUNDS):
            with self._one_at_a_time:  # two creates on one offer are both accepted, and one dies
                first, self._first = self._first, lambda: None
                first()  # what is to be done before anything is rented
                try:
                    listed = self.api.search(asked)
                except Unavailable as fault:
                    self.log(f"search: {fault}")
                    listed = []
                except VastError as fault:
                    raise NothingToRent(str(fault)) from None
                found = max(found, len(listed))
                for offer in offers.rank(listed, wish, self.market, self._used, self._bad):
                    self._check_open()
                    if machine := self._take(offer, wish, slot):
                        return machine
                if self._refusal:
                    raise NothingToRent(self._refusal)
                self._used.clear()  # all have been tried: those still offered are free again
            if self.closing.is_set() or self.clock.wait(MINUTE, self.closing):
                raise Closing
        raise NothingToRent(
            f"no offer for {wish} ({found} listed, {len(self._bad)} machines known as bad). "
            "Allow a higher price, other GPUs or more regions."
        )

    def _take(self, offer: Offer, wish: Wish, slot: int) -> Machine | None:
        """Rent `offer`; None when that cannot be."""
        self._slots += 1
        label = f"{self.keeper.prefix}{slot}-{self._slots}"
        dph = offers.hourly(offer, wish, self.market)
        seconds = wish.seconds + self.limits.boot + self.limits.setup
        price = offers.bid(offer, wish, self.market)
        start = onstart(self.site, self.keys.public, self.api.url, self.clock, self.limits.grace)
        body = offers.request(wish, self.site.image, label, start, price, self.site.login)
        with self._purse:
            self.check_budget(books.cost(dph, seconds))
            self.ledger.write(
                "intend", label=label, offer=offer.id, machine=offer.machine_id, dph=dph,
                gpu=f"{offer.num_gpus}x {offer.gpu_name}", interruptible=wish.interruptible,
                seconds=seconds,
            )  # fmt: skip
        machine = Machine(label, offer, wish, dph, self.clock.now())
        self.machines[label] = machine
        self._used.add(offer.id)
        self.keeper.want(label)
        try:
            machine.id = self._create(offer.id, body, label)
            self.ledger.write("rent", label=label, instance=machine.id, dph=dph)
        except NoSuchOffer:
            self.end(machine, "taken", rented=False)
            return None
        except VastError as fault:
            self._refusal = str(fault) if isinstance(fault, Refused) else ""
            self.log(f"{label}: {fault}")
            self.end(machine, "refused", rented=False)
            return None
        except BaseException:
            self.end(machine, "ended")
            raise
        kind = "interruptible" if wish.interruptible else "on demand"
        place = f" in {offer.geolocation}" if offer.geolocation else ""
        self.log(f"{label}: {offer.num_gpus}x {offer.gpu_name}{place}, ${dph:.3f}/h, {kind}")
        return machine

    def _create(self, offer: int, body: dict, label: str) -> int:
        """Create once. After a lost reply only the list can tell whether a machine was made."""
        for _ in range(4):
            sent = self.clock.now()
            try:
                return self.api.create(offer, body)
            except Unavailable as fault:  # turned away at the door: nothing was made
                self.log(f"{label}: {fault}")
                self._check_open()
            except LostReply as fault:
                self.log(f"{label}: {fault}; looking for it")
                until = sent + 4 * EVERY
                while self.clock.now() < until:
                    self.clock.wait(EVERY / 2)
                    known, instance = self.keeper.find(label, sent)
                    if instance:
                        return instance.id
                    if not known:  # the API is down: no listing, no verdict
                        until = min(until + EVERY / 2, sent + self.limits.boot)
                    self._check_open()
                raise
        raise Unavailable("create: refused four times")

    def check_budget(self, estimate: float) -> None:
        """Raises OverBudget when `estimate` more dollars might go over the budget of the run."""
        money = self.money()
        if not money.allows(estimate, self.budget):
            raise OverBudget(
                f"budget of ${self.budget:.2f}: ${money.spent:.2f} spent, ${money.committed:.2f} "
                f"promised to running jobs, ${estimate:.2f} more wanted"
            )

    def money(self) -> books.Account:
        lines = [x for x in books.read(self.ledger.path) if x["run"] == self.ledger.run]
        return books.account(lines, self.clock.wall(), self.clock.scale)

    def well(self, machine: Machine) -> bool:
        """Whether the API calls a machine that is ours running."""
        _, instance = self.keeper.find(machine.label, machine.rented)
        return instance is not None and instance.status == "running"

    def promise(self, machine: Machine, seconds: float) -> None:
        """Put down what the machine's jobs may still take. Raises OverBudget."""
        lived = self.clock.now() - machine.rented
        facts = {"label": machine.label, "lived": lived}
        with self._purse:
            self.ledger.write("promise", seconds=0, **facts)
            if seconds:
                self.check_budget(books.cost(machine.dph, seconds))
                self.ledger.write("promise", seconds=seconds, **facts)

    # ---- the way up --------------------------------------------------------------------------

    def _bring_up(self, machine: Machine) -> None:
        until = machine.rented + self.limits.boot
        instance = self._wait_running(machine, until)
        self._wait_ssh(machine, instance, until)
        threading.Thread(target=self._keep_lease, args=(machine,), daemon=True).start()
        way, site = machine.transport, self.site
        activate = f"cd {shlex.quote(site.workdir)} && {site.activate or ':'} && "
        patience = max(30.0, self.clock.real(self.limits.setup))
        try:
            way.install(site.folder)
            way.command("until command -v rsync > /dev/null; do sleep 1; done", "", patience)
            way.push([f"{site.workdir}/{name}" for name in site.sources()])
            if site.setup:
                way.command(f"cd {shlex.quote(site.workdir)} && {{ {site.setup}\n}}", "", patience)
        except (Unreachable, Failed) as fault:
            raise Lost("setup", str(fault)) from None
        try:
            if site.smoke:
                way.command(activate + site.smoke, "", max(10.0, self.clock.real(300.0)))
        except (Unreachable, Failed) as fault:
            raise Lost("smoke", str(fault)) from None
        self._check_open()

    def _wait_running(self, machine: Machine, until: float) -> Instance:
        while True:
            known, instance = self.keeper.find(machine.label, machine.rented)
            if instance:
                if wrong := offers.wrong_contract(instance, machine.wish, machine.dph):
                    raise Lost("contract", wrong)
                if instance.dph_total > machine.dph:
                    machine.dph = instance.dph_total
                    facts = {"label": machine.label, "instance": machine.id}
                    self.ledger.write("rent", dph=machine.dph, **facts)
                if offers.fatal(instance.message):
                    raise Lost("fatal", instance.message[:200])
                if instance.status in ("exited", "unknown", "offline", "stopped"):
                    raise Lost("boot", f"{instance.status}: {instance.message[:200]}")
                if instance.status == "running" and instance.addresses:
                    return instance
            elif known and self.clock.now() - machine.rented > 6 * EVERY:
                raise Lost("gone", "the API does not list it")
            if self.clock.now() > until:
                state = instance.status if instance else "not listed"
                raise Lost("boot", f"{state} after {self.limits.boot / 60:.0f} min")
            self._check_open()
            self.clock.wait(2.0, self.closing)

    def _wait_ssh(self, machine: Machine, instance: Instance, until: float) -> None:
        """Direct first, then by the proxy; the key is attached again if the machine forgot it."""
        timeout = max(5.0, self.clock.real(30.0))
        ways = [Transport(self.keys, machine.label, a, timeout) for a in instance.addresses]
        problem, rebooted, halfway = "", False, (self.clock.now() + until) / 2
        while True:
            for way in ways:
                try:
                    way.command("true")
                    machine.transport = way
                    return
                except Denied:
                    self.reattach(machine)
                except (Unreachable, Failed) as fault:
                    problem = str(fault)
                self._check_open()
            if self.clock.now() > until:
                raise Lost("ssh", f"running, but no login: {problem}")
            if not rebooted and self.clock.now() > halfway:
                rebooted = True
                self._try(self.api.reboot, machine.id)
            self.clock.wait(5.0, self.closing)

    def reattach(self, machine: Machine) -> None:
        self._try(self.api.attach, machine.id, self.keys.public)

    def _try(self, call: Callable, *arguments) -> None:
        try:
            call(*arguments)
        except VastError as fault:
            self.log(str(fault))

    def _keep_lease(self, machine: Machine) -> None:
        while not self.clock.wait(self.limits.lease, machine.over):
            with contextlib.suppress(Unreachable, Failed):  # whoever watches the job will tell
                machine.transport.touch(f"{self.site.folder}/lease")

    def _check_open(self) -> None:
        if self.closing.is_set():
            raise Closing

    # ---- the end -----------------------------------------------------------------------------

    def end(self, machine: Machine, why: str, rented: bool = True) -> None:
        """Have a machine ended; the ledger gets its line once the API no longer lists it."""
        if machine.over.is_set():
            return
        machine.over.set()
        if why in books.BAD:
            self._bad.add(machine.offer.machine_id)
        self._why.setdefault(machine.label, why if rented else f"{why}: never rented")
        self.keeper.unwant(machine.label)
        if machine.transport:
            machine.transport.close()

    def _ended(self, label: str) -> None:
        why = self._why.get(label, "ended")
        machine = self.machines.pop(label, None)
        never = machine is None or why.endswith("never rented")
        seconds = 0.0 if never else self.clock.now() - machine.rented
        dollars = 0.0 if never else books.cost(machine.dph, seconds)
        self.ledger.write("end", label=label, seconds=seconds, dollars=dollars, why=why)

    def settle(self) -> None:
        """After the last listing: what never was listed, and so never was confirmed gone."""
        for label in list(self.machines):
            self._ended(label)


def on_demand(wish: Wish) -> Wish:
    return replace(wish, interruptible=False)
