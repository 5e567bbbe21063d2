"""From a job's requirements to a machine that is checked before a job runs on it. No network.

The market is one in memory, so these tests also show that any market will do.
"""

import random
import string
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.driver import machines, rental
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.market import vast
from snakemake_executor_plugin_vast.market.protocol import Instance, Requirements, SearchRules
from snakemake_executor_plugin_vast.money import ledger as books
from vast_support.memory_market import MemoryMarket, offer
from vast_support.stand_ins import DirectKeeper, Machines, ManualClock

SITE = machines.Site(
    workdir="/study", image="image", setup=("set up",), activate="activate", smoke="smoke",
    sources=lambda: ["Snakefile", "new.py"], silent=1800, later=7200, longest=86400,
)  # fmt: skip
BID = Requirements(interruptible=True, max_price=1.0, seconds=3600.0)
STEADY = Requirements(max_price=1.0, seconds=3600.0)


@pytest.fixture
def renting(tmp_path, monkeypatch):
    """A renter on a market, with the ledger of this folder."""
    monkeypatch.setattr(rental, "keep_lease", lambda *_: None)

    def renter(market, machines=None, budget=None):
        monkeypatch.setattr(rental, "Transport", (machines or Machines()).connect)
        clock, keys = ManualClock(), SimpleNamespace(public="ssh-ed25519 AAAA")
        book = books.Ledger(tmp_path / "ledger.jsonl", "r", clock.wall)
        return rental.Renter(
            market, DirectKeeper(market), book, clock, keys, SITE, SearchRules(), Limits(), budget,
            threading.Event(), lambda text: None,
        )  # fmt: skip

    return renter


def ends(tmp_path):
    lines = books.read(tmp_path / "ledger.jsonl")
    return [line["why"] for line in lines if line["what"] == "end"]


def test_a_machine_gets_its_sources_its_environment_and_a_test_once_and_in_this_order(renting):
    machines = Machines()
    machine = renting(MemoryMarket([offer(1)]), machines).rent(STEADY, 1)
    assert machine.label == "p-1-1" and machine.offer.id == 1
    told = [text for _, text in machines.ran]
    order = (
        "true",
        "armed.py",
        "rsync",
        "sources /study/Snakefile /study/new.py",
        "set up",
        "smoke",
    )
    assert len(told) == len(order)
    assert all(part in text for part, text in zip(order, told, strict=True))
    assert told[-1] == "cd /study && activate && smoke"


def test_the_key_is_attached_before_the_first_login(renting):
    """Vast rewrites authorized_keys after hours, and keeps attached keys alone."""
    market, ran = MemoryMarket([offer(1)]), []
    market.attach_key = lambda number, key: ran.append((number, key))
    machines = Machines()
    machines.ran = ran
    renting(market, machines).rent(STEADY, 1)
    assert ran[:2] == [(1, "ssh-ed25519 AAAA"), (1, "true")]


def test_a_bid_that_became_a_rental_on_demand_is_ended_at_once(renting, tmp_path):
    """Markets do that with a bid that they misread; it costs several times the price."""
    market = MemoryMarket([offer(1), offer(2)], {1: {"interruptible": False}})
    machines = Machines()
    machine = renting(market, machines).rent(BID, 1)
    assert (machine.offer.id, market.created) == (2, [1, 2])
    assert ends(tmp_path) == ["contract"] and list(market.listed) == [machine.label]
    assert not [text for number, text in machines.ran if number == 1], "nothing was sent"


@pytest.mark.parametrize("price, tried", [(0.102, [1]), (0.104, [1, 2]), (1.5, [1, 2])])
def test_a_machine_dearer_than_its_offer_is_ended_before_work(renting, tmp_path, price, tried):
    """Its offer said 10 cents per hour; up to 3 % more are accepted."""
    market, machines = MemoryMarket([offer(1), offer(2)], {1: {"price": price}}), Machines()
    machine = renting(market, machines).rent(STEADY, 1)
    assert machine.offer.id == tried[-1] and market.created == tried
    assert ends(tmp_path) == ["contract"] * (len(tried) - 1)
    assert [number for number, _ in machines.ran if number != tried[-1]] == []
    assert machine.price == pytest.approx(price if tried == [1] else 0.2), "it is booked at that"


def test_a_machine_that_could_not_be_put_down_is_ended(renting, monkeypatch):
    market = MemoryMarket([offer(1)])
    renter = renting(market)
    write = renter.ledger.write

    def full(what, **facts):
        if what == "rent":
            raise OSError(28, "No space left on device")
        return write(what, **facts)

    monkeypatch.setattr(renter.ledger, "write", full)
    with pytest.raises(OSError, match="No space left"):
        renter.rent(STEADY, 1)
    assert market.created == [1] and not market.listed


def test_a_machine_that_was_stopped_is_billed_for_its_disk(renting, tmp_path):
    renter = renting(MemoryMarket([offer(1)]))
    machine = renter.rent(STEADY, 1)
    renter.clock.wait(3600.0)
    renter.keeper.halted(Instance(1, machine.label, "stopped", "", 1, 0.1, False, disk_price=0.01))
    renter.settle()
    last = books.read(tmp_path / "ledger.jsonl")[-1]
    assert (last["what"], last["instance"], last["dph"]) == ("stop", 1, 0.01)
    assert (
        last["dollars"] == pytest.approx(0.1 * last["seconds"] / 3600) and last["seconds"] == 3600
    )
    assert len(books.open_rentals(books.read(tmp_path / "ledger.jsonl"))) == 1


PULL = "toomanyrequests: pull rate limit"
TROUBLE = {  # how the instance is listed, and which command fails on it
    "fatal": ({"status": "starting", "message": PULL, "failed": True}, ""),
    "boot": ({"status": "starting"}, ""),
    "setup": ({}, "set up"),
    "smoke": ({}, "smoke"),
    "disarmed": ({}, "armed.py"),
    "ssh": ({}, "true"),
}


@pytest.mark.parametrize("why", TROUBLE)
def test_a_machine_that_does_not_come_up_is_ended_and_remembered(renting, tmp_path, why):
    facts, command = TROUBLE[why]
    market, machines = MemoryMarket([offer(1), offer(2)], {1: facts}), Machines({1: command})
    first = renting(market, machines)
    assert first.rent(STEADY, 1).offer.id == 2 and ends(tmp_path) == [why]
    deadline = Limits().boot
    assert (first.clock.time >= deadline) == (why in ("boot", "ssh")), "others need no wait"
    market.created.clear()
    market.listed.clear()
    for later in (first, renting(market, machines)):  # the same run, and the next one
        market.offers = [offer(1), offer(3)]
        assert later.rent(STEADY, 2).offer.id == 3


def test_it_gives_up_after_so_many_and_leaves_none(renting):
    market = MemoryMarket([offer(n) for n in range(1, 10)])
    machines = Machines(dict.fromkeys(range(1, 10), "smoke"))
    with pytest.raises(rental.NothingToRent, match="6 machines did not start; the last one: smoke"):
        renting(market, machines).rent(STEADY, 1)
    assert len(market.created) == 6 and not market.listed


def test_transfers_are_in_the_budget_and_in_the_ledger(renting, tmp_path):
    """10 cents of rent and 42 cents for 21 GB per hour, of which the market knows nothing."""
    saving = replace(STEADY, upload_gb=21.0)
    market = MemoryMarket([offer(1, upload_price=0.02)])
    with pytest.raises(rental.OverBudget):
        renting(market, budget=0.5).rent(saving, 1)
    assert not market.created
    assert renting(market, budget=1.0).rent(saving, 1).price == pytest.approx(0.52)
    lines = books.read(tmp_path / "ledger.jsonl")
    assert [line["dph"] for line in lines] == pytest.approx([0.52, 0.52])


def test_an_offer_that_is_taken_leads_to_the_next(renting, tmp_path):
    market = MemoryMarket([offer(1), offer(2)], taken={1})
    assert renting(market).rent(STEADY, 1).offer.id == 2
    assert ends(tmp_path) == ["taken: never rented"]


def test_a_key_that_may_not_rent_is_refused_once(renting, fake, tmp_path):
    """Vast answers 404 to such a key, as it does for an offer that is taken."""
    fake.fault("create", times=None, status=404, error="auth_error")
    market = vast.Vast(fake.key, fake.url, ManualClock())
    market.listed = {}  # the keeper's
    with pytest.raises(rental.NothingToRent, match="Check VAST_API_KEY"):
        renting(market).rent(STEADY, 1)
    assert len(fake.calls("create")) == 1 and ends(tmp_path) == ["refused: never rented"]


def test_a_folder_whose_start_script_is_too_long_is_refused_before_an_order(renting, tmp_path):
    """Vast would refuse each order, one offer after the other."""
    market = MemoryMarket([offer(1), offer(2)])
    renter = renting(market)
    drawn = random.Random(1).choices(string.ascii_letters + string.digits, k=3900)
    renter.site = replace(SITE, workdir="/" + "".join(drawn))
    with pytest.raises(
        rental.NothingToRent, match="at most 4048 were expected; nothing was rented"
    ):
        renter.rent(STEADY, 1)
    assert not market.created and not books.read(tmp_path / "ledger.jsonl")


def test_nothing_is_asked_for_that_could_go_over_the_budget(renting):
    """An hour and its start at ten cents: 17 cents. A second machine counts the first one's."""
    market = MemoryMarket([offer(1), offer(2)])
    poor = renting(market, budget=0.16)
    with pytest.raises(rental.OverBudget, match=r"^budget of \$0.16: \$0.00 spent"):
        poor.rent(STEADY, 1)
    assert not market.created
    richer = renting(market, budget=0.3)
    richer.rent(STEADY, 1)
    with pytest.raises(rental.OverBudget, match="reserved for running jobs"):
        richer.rent(STEADY, 2)
    assert market.created == [1]
