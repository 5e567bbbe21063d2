"""Stand-ins for the Vast executor's tests: a clock, a market, machines. No network, no waits."""

from dataclasses import dataclass, field

from snakemake_executor_plugin_vast.api import Instance, NoSuchOffer, Offer, Unavailable
from snakemake_executor_plugin_vast.transport import Failed


class Still:
    """A clock that moves when somebody waits."""

    scale = 1.0

    def __init__(self):
        self.time, self.waits = 0.0, []

    def now(self):
        return self.time

    wall = now

    def real(self, seconds):
        return seconds

    def wait(self, seconds, event=None):
        self.waits.append(seconds)
        self.time += max(0.0, seconds)
        return bool(event and event.is_set())


def offer(number, **facts):
    """An offer whose machine has its number, and a price that rises with it."""
    given = {"gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564, "cpu_ram": 64000}
    given |= {"disk_space": 200, "dph_total": 0.1 * number, "min_bid": 0.05 * number}
    return Offer(id=number, machine_id=number, **given | facts)


@dataclass
class Market:
    """The API and its list of machines at once: each offer's machine comes up as `comes` says."""

    offers: list[Offer]
    comes: dict[int, dict] = field(default_factory=dict)  # offer: what its instance is like
    fails: dict[int, str] = field(default_factory=dict)  # offer: a command that fails there
    url, prefix, ended = "http://fake", "p-", staticmethod(lambda label: None)

    def __post_init__(self):
        self.created, self.listed, self.ran = [], {}, []

    # the API
    def search(self, query):
        return self.offers

    def create(self, number, body):
        how = {"status": "running", "message": "", "is_bid": "price" in body, "dph_total": 0.1}
        how |= self.comes.get(number, {})
        if how.pop("taken", False):
            raise NoSuchOffer("410")
        self.created.append(number)
        label, where = body["label"], (("host", number),)
        self.listed[label] = Instance(
            id=number, label=label, machine_id=number, addresses=where, **how
        )
        return number

    def reboot(self, number):
        self.ran.append((number, "reboot"))

    # the keeper
    def want(self, label):
        pass

    def unwant(self, label):
        self.listed.pop(label, None)
        self.ended(label)

    def find(self, label, since):
        return True, self.listed.get(label)

    def status_since(self, label):
        return None

    # ssh
    def way(self, keys, name, address, timeout=30.0):
        return Way(self, address[1])


class Way:
    """The transport to a machine of a `Market`."""

    timeout = 30.0

    def __init__(self, market, number):
        self.market, self.number = market, number

    def command(self, text, data="", timeout=None):
        self.market.ran.append((self.number, text))
        bad = self.market.fails.get(self.number)
        if bad and bad in text:
            raise Failed("exit 1")
        return ""

    def install(self, folder):
        pass

    def push(self, paths):
        self.market.ran.append((self.number, f"sources {' '.join(paths)}"))

    def close(self):
        pass


class Account:
    """Instances by label; `deaf` destroys are ignored, `down` listings fail."""

    def __init__(self, *labels, deaf=0, down=0):
        self.labels, self.deaf, self.down, self.destroyed = list(labels), deaf, down, []

    def instances(self):
        if self.down:
            self.down -= 1
            raise Unavailable("down")
        return [Instance(label, label, "running", "", 1, 0.1, False, ()) for label in self.labels]

    def destroy(self, id):  # here the label
        self.destroyed.append(id)
        if self.deaf:
            self.deaf -= 1
            raise Unavailable("500")
        self.labels.remove(id)
