"""Who serves which job: slots, warm machines, lost ones, the budget. Machines are stand-ins."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.clock import Clock
from snakemake_executor_plugin_vast.driver import pool as pools
from snakemake_executor_plugin_vast.driver.endings import Lost, NothingToRent, OverBudget
from snakemake_executor_plugin_vast.driver.machines import Machine
from snakemake_executor_plugin_vast.driver.states import Places
from snakemake_executor_plugin_vast.driver.task import RuleFailed, Task
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.driver.work import Pace
from snakemake_executor_plugin_vast.market.protocol import Offer, Requirements
from snakemake_executor_plugin_vast.money.ledger import BAD, Ledger, read

PATIENCE = 20  # seconds until a test that hangs fails


class Renter:
    """Rents stand-ins; `plan` holds what goes wrong with the next rentals."""

    site = None

    def __init__(self, plan=()):
        self.plan, self.rented, self.ended, self.promised = list(plan), [], [], []
        self.over = None  # label whose promise goes over the budget
        self.superseded = []  # machines whose jobs continue elsewhere
        self.held = set()  # labels of machines with work that is not saved

    def rent(self, requirements, slot):
        if self.plan and (fault := self.plan.pop(0)):
            raise fault
        offer = Offer(1, 7, "RTX 4090", requirements.gpus, 24564, 64000, 200, 0.31, 0.15)
        self.rented.append(Machine(f"m{len(self.rented) + 1}", offer, requirements, 1.0, 0.0))
        return self.rented[-1]

    def end(self, machine, why, superseded=False):
        self.superseded += [machine.label] if superseded else []
        if not machine.over.is_set():
            machine.over.set()
            self.ended.append((machine.label, why))

    def promise(self, machine, seconds):
        if seconds and machine.label == self.over:
            raise OverBudget("budget of $1.00")
        self.promised.append((machine.label, seconds))

    def well(self, machine):
        return True

    def reattach(self, machine):
        pass

    def wake(self, machine):
        return False


class Attempt:
    """Ends as its task's `script` says, one word an attempt; a held one waits for its event."""

    def __init__(self, task, machine, name, *rest):
        self.task, self.machine, self.name, self.tail = task, machine, name, ""
        self.links = []
        self.seconds, self.wasted, self.ran, self.log_file = 2.0, 1.0, 1.0, Path("log")

    def run(self):
        script = self.task.inputs
        word = script.pop(0) if script else "done"
        if isinstance(word, tuple):
            held, word = word
            assert held.wait(PATIENCE)
        if isinstance(word, threading.Event):
            assert word.wait(PATIENCE)
        elif word == "fails":
            raise RuleFailed("exit code 1", "No space on Mars")
        elif word == "full":
            raise RuleFailed("exit code 1", "No space left on device")
        elif word == "links":
            self.links = ["a", "b/c"]
        elif word != "done":
            raise Lost(word)


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "Attempt", Attempt)
    made = []

    def pool(renter, most=4, **limits):
        clock = Clock()
        book = Ledger(tmp_path / "ledger.jsonl", "r", clock.wall)
        bounds = replace(Limits(), **{"idle": 3600.0, "farewell": 5.0} | limits)
        made.append(
            pools.Pool(
                renter,
                SimpleNamespace(holds=lambda label: label in renter.held),
                book,
                clock,
                bounds,
                Pace(),
                tmp_path,
                most,
                3,
                2,
                threading.Event(),
                lambda text: None,
                Places(tmp_path / "states.json"),
            )  # fmt: skip
        )
        return made[-1]

    yield pool
    for each in made:
        each.close()


def task(*script, **requirements):
    return Task("job", "true", {}, list(script), [], [], [], Requirements(**requirements))


def wait(*tasks):
    over = threading.Event()
    for _ in range(PATIENCE * 100):
        if all(t.outcome for t in tasks):
            return [t.outcome.why for t in tasks]
        over.wait(0.01)
    raise AssertionError("a job was forgotten")


def test_a_warm_machine_takes_the_next_job(make):
    renter = Renter()
    pool = make(renter)
    for _ in range(3):
        job = task()
        pool.submit(job)
        assert wait(job) == [""]
    assert len(renter.rented) == 1 and not renter.ended


def test_a_machine_that_waits_too_long_is_ended_and_the_next_job_gets_another(make):
    renter = Renter()
    pool = make(renter, idle=0.0)
    for _ in range(2):
        job = task()
        pool.submit(job)
        assert wait(job) == [""]
        for thread in list(pool._slots.values()):
            thread.join(PATIENCE)
    assert renter.ended == [("m1", "idle"), ("m2", "idle")]


def test_no_more_machines_than_allowed(make):
    renter, held = Renter(), threading.Event()
    pool = make(renter, most=2)
    jobs = [task(held) for _ in range(5)]
    for job in jobs:
        pool.submit(job)
    held.set()
    assert wait(*jobs) == [""] * 5 and len(renter.rented) <= 2


def test_a_machine_that_does_not_fit_makes_room(make):
    renter = Renter()
    pool = make(renter, most=1)
    small, large = task(), task(gpus=8)
    pool.submit(small)
    wait(small)
    pool.submit(large)
    assert wait(large) == [""]
    assert [m.requirements.gpus for m in renter.rented] == [1, 8] and renter.ended == [
        ("m1", "idle")
    ]


def test_links_that_stay_on_a_machine_are_named(make):
    pool, job, said = make(Renter()), task("links"), []
    pool.log = said.append
    pool.submit(job)
    assert wait(job) == [""] and said == ["job: links stay on the machine: a, b/c"]


@pytest.mark.parametrize("why", ["outbid", "gone", "silent", "transfer"])
def test_a_lost_machine_costs_the_job_nothing(make, why):
    renter = Renter()
    pool, job = make(renter), task(why, why, why)
    pool.submit(job)
    assert wait(job) == [""]
    assert [reason for _, reason in renter.ended] == [why] * 3 and len(renter.rented) == 4
    assert renter.superseded == ["m1", "m2", "m3"], "their states are not needed"


def test_it_gives_up_after_so_many(make):
    """The last machine may have the newest state of a job that continues nowhere."""
    renter = Renter()
    pool, job = make(renter), task(*["silent"] * 9)
    pool.submit(job)
    assert wait(job) == ["silent"] and len(job.inputs) == 5
    assert renter.superseded == ["m1", "m2", "m3"] and renter.ended[-1] == ("m4", "silent")


def test_what_a_machine_has_when_the_run_ends_is_needed(make):
    held, renter = threading.Event(), Renter()
    pool, job = make(renter), task((held, "transfer"))
    pool.submit(job)
    while not renter.rented:
        held.wait(0.01)
    pool.closing.set()
    held.set()
    pool.close()
    assert renter.ended == [("m1", "transfer")] and not renter.superseded


def test_lost_bids_lead_to_a_steady_machine(make):
    renter = Renter()
    pool, job = make(renter), task("outbid", "outbid", interruptible=True)
    pool.submit(job)
    wait(job)
    assert [m.requirements.interruptible for m in renter.rented] == [True, True, False]


def test_a_rule_that_fails_goes_to_snakemake_and_the_machine_stays(make):
    renter = Renter()
    pool, job = make(renter), task("fails")
    pool.submit(job)
    assert wait(job) == ["exit code 1"] and not renter.ended


@pytest.mark.parametrize("why", ["fails", "overtime"])
def test_a_machine_with_work_that_could_not_be_fetched_gets_no_other_job(make, why):
    """The end of another job would let it be destroyed with that work."""
    renter = Renter()
    renter.held.add("m1")
    pool, first, second = make(renter, 1), task(why), task()
    pool.submit(first)
    wait(first)
    pool.submit(second)
    assert wait(second) == [""]
    assert renter.ended[0][0] == "m1" and "m1" not in renter.superseded and len(renter.rented) == 2


def test_a_stall_is_resumed_once_on_the_same_machine(make):
    renter = Renter()
    pool, job = make(renter), task("stalled")
    pool.submit(job)
    assert wait(job) == [""] and len(renter.rented) == 1 and not renter.ended


def test_a_job_that_stalls_again_fails_and_its_machine_is_left_alone(make):
    """Snakemake's retry must not meet the same hanging GPU."""
    renter = Renter()
    pool, job = make(renter, most=1), task("stalled", "stalled")
    pool.submit(job)
    assert wait(job) == ["stalled"]
    pool.submit(retry := task())
    assert wait(retry) == [""] and len(renter.rented) == 2
    [(label, why)] = renter.ended
    assert label == "m1" and why in BAD


def test_a_full_disk_is_pruned_then_doubled(make, monkeypatch):
    renter, pruned = Renter(), []
    pool, job = make(renter), task("full", "full", disk_gb=40)
    monkeypatch.setattr(pool, "_prune", lambda machine, attempt: pruned.append(machine.label))
    pool.submit(job)
    assert wait(job) == [""]
    assert pruned == ["m1"] and [m.requirements.disk_gb for m in renter.rented] == [40, 80]


def test_a_job_that_lost_its_machine_takes_a_warm_one(make):
    held, renter = threading.Event(), Renter()
    pool, first, second = make(renter), task((held, "outbid")), task()
    pool.submit(first)
    pool.submit(second)
    while None in pool._idle.values() or not pool._idle:  # until the second's machine is idle
        held.wait(0.01)
    held.set()
    assert wait(first) == [""] and len(renter.rented) == 2


@pytest.mark.parametrize("fault", [OverBudget("budget of $1.00"), NothingToRent("no offer")])
def test_a_job_without_a_machine_waits_for_those_that_are_there(make, fault):
    held, renter = threading.Event(), Renter([None, fault])
    pool, first, second = make(renter), task(held), task()
    pool.submit(first)
    while not renter.rented:
        pass
    pool.submit(second)
    while renter.plan:
        pass
    held.set()
    assert wait(first, second) == ["", ""] and len(renter.rented) == 1


def test_over_budget_and_alone_it_fails_with_the_figures(make):
    # more than two: a slot that is not alone asks again once the other is gone
    renter = Renter([OverBudget("budget of $1.00") for _ in range(20)])
    pool, jobs = make(renter), [task(), task()]
    for job in jobs:
        pool.submit(job)
    assert wait(*jobs) == ["budget of $1.00"] * 2


def test_a_warm_machine_is_no_way_around_the_budget(make):
    renter = Renter([None, OverBudget("budget of $1.00")])
    renter.over = "m1"
    pool, first, second = make(renter), task(), task()
    pool.submit(first)
    wait(first)
    pool.submit(second)
    assert wait(second) == ["budget of $1.00"] and renter.ended == [("m1", "budget")]


@pytest.mark.parametrize("script", [["stalled"], ["full"]])
def test_a_second_time_on_one_machine_is_asked_for_as_the_first(make, monkeypatch, script):
    """A job that stalls after eleven hours may take eleven more."""
    renter = Renter()
    pool, job = make(renter), task(*script)
    monkeypatch.setattr(pool, "_prune", lambda machine, attempt: None)
    renter.over = "m1"
    pool.submit(job)
    assert wait(job) == ["budget of $1.00"] and renter.ended == [("m1", "budget")]


def test_no_machine_stays_when_the_books_cannot_be_kept(make, monkeypatch):
    renter = Renter()
    pool, job = make(renter), task()

    def full(*_, **facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pool.ledger, "write", full)
    pool.submit(job)
    assert "No space left" in wait(job)[0]
    assert renter.ended == [("m1", "ended")]


def test_nothing_to_rent_fails_that_job_alone(make):
    renter = Renter([NothingToRent("no offer")])
    pool, first = make(renter), task()
    pool.submit(first)
    assert wait(first) == ["no offer"]
    second = task()
    pool.submit(second)
    assert wait(second) == [""]


def test_every_attempt_is_in_the_ledger(make, tmp_path):
    pool, job = make(Renter()), task("outbid", "fails")
    pool.submit(job)
    wait(job)
    first, second = read(tmp_path / "ledger.jsonl")
    assert (first["why"], second["why"]) == ("outbid", "failed")
    dollar = 1.0 / 3600  # a machine costs one an hour; 2 s of it were used, 1 s for nothing
    told = {"attempt": "r-1", "offer": 1, "label": "m1", "dph": 1.0, "seconds": 2.0}
    told |= {"dollars": 2 * dollar, "wasted": 1.0, "wasted_dollars": dollar}
    assert {name: first[name] for name in told} == told


def test_closing_ends_what_is_warm(make):
    renter = Renter()
    pool, job = make(renter), task()
    pool.submit(job)
    wait(job)
    pool.close()
    assert renter.ended == [("m1", "ended")]
