"""A computer that slept fetches what machines have made, before it ends any. No network."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.clock import Clock
from snakemake_executor_plugin_vast.driver import machines, rental
from snakemake_executor_plugin_vast.driver.keeper import Keeper
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.machine import deadman
from snakemake_executor_plugin_vast.machine.transport import Unreachable
from snakemake_executor_plugin_vast.market.protocol import Instance, Requirements, SearchRules
from vast_support.attempts import OVER, exit, make_attempt
from vast_support.memory_market import MemoryMarket, offer
from vast_support.stand_ins import ARMED, Account, DirectKeeper, Machines, ManualClock

NIGHT = 8 * 3600.0
EVENING = 1000.0  # when the computer falls asleep


def test_the_clock_goes_on_while_the_computer_sleeps_and_never_back(monkeypatch):
    awake, wall = [50.0], [1e9]
    monkeypatch.setattr(time, "monotonic", lambda: awake[0])
    monkeypatch.setattr(time, "time", lambda: wall[0])
    clock = Clock()
    began = clock.now()
    for awake_for, shown, passed in (
        (5.0, 5.0, 5.0),
        (1.0, NIGHT, 5.0 + NIGHT),  # it slept
        (1.0, -3600.0, 6.0 + NIGHT),  # somebody set its time back
        (10.0, 10.5, 16.0 + NIGHT),  # its time was corrected a little
    ):
        awake[0] += awake_for
        wall[0] += shown
        assert clock.now() - began == pytest.approx(passed)
    assert clock.awake() == awake[0] == 50.0 + 17.0


class SleepyClock(ManualClock):
    """This computer sleeps for a night, in the first wait after EVENING or in something else.

    When only this process is `stopped`, as by Ctrl-Z, the computer is awake meanwhile.
    """

    def __init__(self, during="wait", stopped=False):
        super().__init__()
        self.during, self.stopped, self.woke = during, stopped, None

    def sleep(self):
        if self.woke is None and self.time > EVENING:
            self.time += NIGHT
            self.woke = self.time

    def wait(self, seconds, event=None):
        over = super().wait(seconds, event)
        if self.during == "wait":
            self.sleep()
        return over

    def awake(self):
        return self.time - (NIGHT if self.woke and not self.stopped else 0.0)


def at_night(tmp_path, clock, no_network=60.0, **facts):
    """An attempt at a job that ends at night; after it the network takes a while to come up."""

    def told(now):
        if clock.during == "look":
            clock.sleep()
        if clock.woke is not None and clock.now() < clock.woke + no_network:
            raise Unreachable("the network is down")
        done = {"code": 0, "seconds": 1.0, "files": {}, "missing": [], "links": []}
        return {"exit": done if now > EVENING + 3600 else None}

    attempt, connection = make_attempt(tmp_path, told, clock=clock, **facts)
    connection.timeout = Limits().silent / 2  # in a clock that runs fast, a look may take long
    if clock.during == "check":
        connection.armed = lambda now: clock.sleep() or ARMED
    return attempt, connection


asleep = pytest.mark.parametrize("during", ["wait", "look", "check"])
stopped = pytest.mark.parametrize("stopped", [False, True])


@asleep
@stopped
@pytest.mark.parametrize("seconds", [1e6, 2 * 3600.0])
def test_results_that_were_made_while_this_computer_slept_are_fetched(
    tmp_path, during, stopped, seconds
):
    """Also those of a job whose time limit has passed since."""
    attempt, connection = at_night(tmp_path, SleepyClock(during, stopped), seconds=seconds)
    attempt.run()
    assert attempt.clock.now() > EVENING + NIGHT and attempt.ran == 1.0
    assert any("rm -f" in text and "exit.json" in text for text in connection.commands)


@asleep
@stopped
def test_a_machine_that_is_silent_after_the_sleep_is_lost_in_its_usual_time(
    tmp_path, during, stopped
):
    attempt, _ = at_night(tmp_path, SleepyClock(during, stopped), no_network=1e6)
    with pytest.raises(rental.Lost, match="silent"):
        attempt.run()
    waited = attempt.clock.now() - attempt.clock.woke
    assert Limits().silent / 2 < waited < 2 * Limits().silent


@pytest.mark.parametrize("wakes", [True, False])
def test_a_machine_that_stopped_itself_is_started_and_its_results_are_fetched(tmp_path, wakes):
    clock, started = SleepyClock(), []
    attempt, _ = at_night(tmp_path, clock)
    on = attempt.keeper.running
    attempt.keeper.find = lambda label, since: (
        True, on if started or clock.woke is None else replace(on, status="stopped"),
    )  # fmt: skip

    def wake(machine):
        started.append(machine.label)
        return wakes

    attempt.wake = wake
    if wakes:
        attempt.run()
    else:
        with pytest.raises(rental.Lost, match="outbid"):
            attempt.run()
    assert started == ["m"]


def test_a_job_that_the_switch_has_ended_leaves_its_state_here(tmp_path):
    """After a restart another process may have its number, so that it seems to be alive."""
    clock, started = SleepyClock(), []
    attempt, connection = make_attempt(tmp_path, lambda now: {}, clock=clock, states=["state/a"])
    on = attempt.keeper.running
    attempt.keeper.find = lambda label, since: (
        True, on if started or clock.woke is None else replace(on, status="stopped"),
    )  # fmt: skip
    attempt.wake = lambda machine: started.append(machine.label) or True
    with pytest.raises(rental.Lost, match="killed"):
        attempt.run()
    assert connection.copies and connection.copies[-1] > clock.woke


@pytest.fixture
def rented(tmp_path, monkeypatch):
    """A renter, its machine, the clock, and the ids of machines that were started."""
    monkeypatch.setattr(rental, "Transport", Machines().connect)
    market, clock, started = MemoryMarket([offer(1)]), ManualClock(), []
    market.start = started.append
    site = machines.Site("/s", "i", (), "", "", list, 1800, 7200, 86400)
    renter = rental.Renter(
        market, DirectKeeper(market), SimpleNamespace(path=tmp_path / "l"), clock,
        SimpleNamespace(public="key"), site, SearchRules(), Limits(), None, threading.Event(),
        print,
    )  # fmt: skip
    machine = machines.Machine("p-1", offer(1), Requirements(), 0.1, 0.0, id=1, leased=0.0)
    market.listed["p-1"] = Instance(1, "p-1", "running", "", 1, 0.1, False, (("host", 1),))
    return renter, machine, clock, started


@pytest.mark.parametrize("quiet, starts", [(1700.0, False), (1900.0, True)])
def test_only_a_machine_whose_switch_has_acted_is_started_again(rented, quiet, starts):
    """Others were outbid or stopped by their hosts: their jobs continue elsewhere at once."""
    renter, machine, clock, started = rented
    clock.wait(quiet)
    assert renter.wake(machine) == starts
    assert started == ([1] if starts else []) and (not starts or machine.connection)
    assert not renter.wake(machine), "once"


def test_a_sign_of_life_that_was_sent_before_a_sleep_is_none_after_it(rented):
    """This computer hears only then that it has arrived."""
    renter, machine, clock, started = rented
    machine.connection = SimpleNamespace(touch=lambda path: clock.wait(NIGHT), close=lambda: None)
    renter._touch(machine)
    assert renter.wake(machine) and started == [1]


def test_a_save_during_which_this_computer_slept_puts_off_no_other(tmp_path):
    """The next one comes after a multiple of the time that this one took."""
    clock = SleepyClock("save")
    attempt, connection = make_attempt(
        tmp_path,
        lambda now: {"mark": str(now)} | exit(now - NIGHT),
        clock=clock,
        states=["state"],
    )

    def save(*_):
        connection.copies.append(clock.now())
        clock.sleep()

    connection.pull_state = save
    attempt.run()
    since = [time for time in connection.copies if clock.woke <= time < OVER + NIGHT]
    assert since and since[0] <= clock.woke + 2 * attempt.pace.every


def test_a_computer_that_sleeps_at_the_end_of_a_run_ends_the_machines_when_it_wakes():
    clock, account = SleepyClock(), Account("p-1", down=3)
    clock.wait(EVENING)
    assert Keeper(account, "p-", clock).end_all(600.0) == []
    assert clock.woke and account.destroyed == ["p-1"]


def test_a_machine_with_results_that_nobody_has_fetched_is_kept(tmp_path):
    (tmp_path / "job").mkdir()
    assert not deadman.worth_keeping(str(tmp_path))
    (tmp_path / "job/exit.json").touch()
    assert deadman.worth_keeping(str(tmp_path))
