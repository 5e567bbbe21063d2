"""Stand-ins for unit tests: a clock, the list of machines, connections. No network, no waits."""

from __future__ import annotations

from snakemake_executor_plugin_vast.machine.transport import Failed
from snakemake_executor_plugin_vast.market.protocol import Instance, Unavailable

from .memory_market import MemoryMarket

ARMED = '{"armed": true, "why": ""}'


class ManualClock:
    """A clock that advances by waits only."""

    scale = 1.0

    def __init__(self):
        self.time, self.waits = 0.0, []

    def now(self):
        return self.time

    wall = now

    def awake(self):
        return self.now()

    def real(self, seconds):
        return seconds

    def wait(self, seconds, event=None):
        self.waits.append(seconds)
        self.time += max(0.0, seconds)
        return bool(event and event.is_set())


class ServiceClock(ManualClock):
    """The clock of a fake Vast that stands still: a wait lets the time of the service pass."""

    def __init__(self, fake):
        super().__init__()
        self.fake = fake

    def now(self):
        return self.fake.now

    wall = now

    def wait(self, seconds, event=None):
        if seconds > 0:
            self.fake.advance(seconds)
        return bool(event and event.is_set())


class DirectKeeper:
    """A keeper whose list is always up to date, and which ends machines at once."""

    prefix, ended = "p-", staticmethod(lambda label: None)

    def __init__(self, market: MemoryMarket):
        self.market, self.held = market, set()

    def hold(self, label):
        self.held.add(label)

    def release(self, label):
        self.held.discard(label)

    def want(self, label):
        pass

    def know(self, label, id):
        pass

    def unwant(self, label):
        self.market.listed.pop(label, None)
        self.ended(label)

    def find(self, label, since):
        return True, self.market.listed.get(label)

    def status_since(self, label):
        return None


class Machines:
    """Connections to machines; a command that contains `fails[number]` fails on that machine."""

    def __init__(self, fails=None):
        self.fails, self.ran = fails or {}, []

    def connect(self, keys, name, address, timeout=30.0, stall=300.0):
        return Connection(self, address[1])


class Connection:
    """The transport to a machine of `Machines`."""

    timeout = 30.0

    def __init__(self, machines, number):
        self.machines, self.number = machines, number

    def command(self, text, data="", timeout=None):
        self.machines.ran.append((self.number, text))
        bad = self.machines.fails.get(self.number)
        if bad and bad in text:
            raise Failed("exit 1")
        return ARMED if "armed.py" in text else ""

    def install(self, folder):
        pass

    def push(self, paths, most):
        self.machines.ran.append((self.number, f"sources {' '.join(paths)}"))

    def close(self):
        pass


class Account:
    """Instances by label; the first `deaf` destroys and the first `down` lists fail.

    A label is an instance's id as well. `calls` collects what was requested of which instance.
    """

    def __init__(self, *labels, deaf=0, down=0, addresses=()):
        self.labels, self.deaf, self.down, self.destroyed = list(labels), deaf, down, []
        self.addresses, self.stopped, self.calls = addresses, set(), []

    def instances(self, prefix=""):
        if self.down:
            self.down -= 1
            raise Unavailable("down")
        mine = [label for label in self.labels if label.startswith(prefix)]
        return [self._show(label) for label in mine]

    def _show(self, label):
        status = "stopped" if label in self.stopped else "running"
        facts = (status, "", 1, 0.1, False, self.addresses)
        return Instance(label, label, *facts, disk_price=0.03125)

    def instance(self, id):
        return self._show(id) if id in self.labels else None

    def stop(self, id):
        self.calls.append(("stop", id))
        self.stopped.add(id)

    def start(self, id):
        self.calls.append(("start", id))
        self.stopped.discard(id)

    def attach_key(self, id, public):
        self.attached = (id, public)

    def destroy(self, id):  # here the label
        self.destroyed.append(id)
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("500")
        self.labels.remove(id)
