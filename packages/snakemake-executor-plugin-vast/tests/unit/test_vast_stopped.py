"""Machines that were stopped with their work: what they cost is shown, and bounded. No network."""

import threading
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_vast as plugin
from snakemake_executor_plugin_vast.driver import rental, runs
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.market.protocol import (
    Instance,
    Requirements,
    SearchRules,
    Unavailable,
)
from snakemake_executor_plugin_vast.money import ledger as books
from vast_support.memory_market import MemoryMarket, offer
from vast_support.stand_ins import DirectKeeper, ManualClock

DISK = 0.75 / 24  # dollars per hour of 150 GB


def machine(number, status="stopped"):
    return Instance(number, f"p-{number}", status, "", 1, 1.0, False, disk_price=DISK)


@pytest.fixture
def executor(tmp_path):
    made, said = object.__new__(plugin.Executor), []
    made.settings, made.workdir = plugin.ExecutorSettings(), tmp_path
    made._log, made.said, made._earlier = said.append, said, None
    made.keeper = SimpleNamespace(stopped={})
    return made


@pytest.mark.parametrize("stopped, barred", [(0, False), (4, False), (5, True)])
def test_nothing_is_rented_while_stopped_machines_cost_too_much(
    executor, monkeypatch, stopped, barred
):
    """Four disks of 150 GB are three dollars a day."""
    left = runs.Left(stopped=[machine(n) for n in range(stopped)])
    monkeypatch.setattr(plugin, "reap", lambda *_: left)
    why = executor._barred(MemoryMarket([]))
    assert sum("$0.75 a day" in text for text in executor.said) == stopped
    assert bool(why) == barred
    if barred:
        assert "$3.75 a day" in why and "--vast-stopped-dollars allows $3.00" in why


def test_machines_that_this_run_has_stopped_count_as_well(executor, monkeypatch):
    monkeypatch.setattr(plugin, "reap", lambda *_: runs.Left(stopped=[machine(1), machine(2)]))
    assert not executor._barred(MemoryMarket([]))
    monkeypatch.setattr(plugin, "reap", lambda *_: pytest.fail("earlier runs are ended once"))
    executor.keeper.stopped |= {f"m-{n}": machine(n) for n in (3, 4, 5)}
    assert "$3.75 a day" in executor._barred(MemoryMarket([]))


def test_a_run_that_may_not_rent_rents_for_no_job(tmp_path):
    market, clock = MemoryMarket([offer(1)]), ManualClock()
    renter = rental.Renter(
        market, DirectKeeper(market), books.Ledger(tmp_path / "l.jsonl", "r", clock.wall), clock,
        SimpleNamespace(public="key"), None, SearchRules(), Limits(), None, threading.Event(),
        print, lambda: "the disks cost $3.75 a day",
    )  # fmt: skip
    for slot in (1, 2):
        with pytest.raises(rental.NothingToRent, match="3.75 a day"):
            renter.rent(Requirements(), slot)
    assert not market.created


def test_the_credit_and_the_price_of_stopped_machines_are_said_before_renting(executor):
    run = runs.Run(executor.workdir, executor.workdir / "ledger.jsonl", "vast", 1.0)
    run._lock.close()
    listed = {f"{run.prefix}{n}": machine(n, s) for n, s in ((1, "stopped"), (2, "running"))}
    market = MemoryMarket([], listed=listed | {"another-1": machine(3)})
    credit, disks = executor._notes(market)
    assert credit.startswith("The account has $12.50 of credit. A card that is saved there")
    assert disks.startswith("1 stopped machines of earlier runs cost $0.75 a day")


@pytest.mark.parametrize("down", [False, True])
def test_an_unknown_credit_keeps_nobody_from_renting(executor, down):
    def credit():
        if down:
            raise Unavailable("503")

    market = MemoryMarket([])
    market.credit = credit
    [note] = executor._notes(market)
    assert ("503" if down else "user_read") in note
