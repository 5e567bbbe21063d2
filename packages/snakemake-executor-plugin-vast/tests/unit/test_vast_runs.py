"""Runs that were killed: whose machines they are, and how they are ended. No network."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast import command
from snakemake_executor_plugin_vast.command import main
from snakemake_executor_plugin_vast.driver import runs
from snakemake_executor_plugin_vast.driver.keeper import Keeper
from snakemake_executor_plugin_vast.driver.states import Places
from snakemake_executor_plugin_vast.machine import transport
from snakemake_executor_plugin_vast.market.protocol import Instance, NoKey, Refused
from snakemake_executor_plugin_vast.money import ledger as books
from vast_support.killed_run import Broken, Hostile, killed_run
from vast_support.stand_ins import Account, ManualClock


def test_a_run_is_dead_when_its_process_is(tmp_path):
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    assert runs.dead_runs(tmp_path) == []
    run._lock.close()  # as the kernel does for a killed process
    assert runs.dead_runs(tmp_path) == [run.folder]


def test_a_run_that_ended_well_leaves_no_key(tmp_path):
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    (run.folder / "key").write_text("private")
    arrivals = tmp_path / runs.PLACE / f"jobs/{run.name}-1.arrivals"
    (arrivals / "half of a transfer").mkdir(parents=True)  # which the end of the run has cut off
    run.over([])
    assert not arrivals.exists()
    assert not run.folder.exists() and runs.dead_runs(tmp_path) == []


def test_reap_ends_what_a_killed_run_left_and_books_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    book = books.Ledger(tmp_path / "ledger.jsonl", run.name, lambda: 0.0)
    label = f"{run.prefix}1-1"
    facts = {"offer": 1, "machine": 1, "dph": 1.0, "seconds": 60.0}
    book.write("intend", label=label, **facts)
    run._lock.close()
    (tmp_path / runs.PLACE / f"jobs/{run.name}-1.arrivals/part").mkdir(parents=True)
    account, said = Account(label, "another-run-1-1"), []
    assert not runs.reap(tmp_path, lambda market: account, said.append)
    assert account.labels == ["another-run-1-1"]
    assert books.open_rentals(books.read(book.path)) == []
    assert runs.dead_runs(tmp_path) == []
    assert not list((tmp_path / runs.PLACE / "jobs").iterdir()), "half of a transfer is left"


@pytest.mark.parametrize("ledger", [None, "not\njson\n"])
def test_reap_ends_machines_whose_ledger_is_lost(tmp_path, monkeypatch, ledger):
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    monkeypatch.setattr(runs, "_rescue", lambda *_: None)
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    (run.folder / "key").touch()  # as before each rental
    run._lock.close()
    account = Account(f"{run.prefix}1-1")
    if ledger is None:
        assert not runs.reap(tmp_path, lambda market: account, print)
    else:
        (tmp_path / "ledger.jsonl").write_text(ledger)
        [problem] = runs.reap(tmp_path, lambda market: account, print).problems
        assert "ledger.jsonl, line 1" in problem
    assert account.labels == []
    assert runs.dead_runs(tmp_path) == ([] if ledger is None else [run.folder])


def test_a_machine_that_cannot_be_woken_costs_no_other_its_state(tmp_path, monkeypatch):
    """An outbid machine cannot be started; its neighbour's training is still to be had."""
    asleep, awake = (Instance(n, f"p-{n}", s, "", 1, 0.1, True, (("host", n),))
                     for n, s in ((1, "stopped"), (2, "running")))  # fmt: skip
    keys = SimpleNamespace(public="key", forget=lambda: None)
    monkeypatch.setattr(runs, "Keyring", lambda folder: keys)
    monkeypatch.setattr(runs, "Transport", lambda keys, label, *_: label)
    home, said, attached = [], [], []
    monkeypatch.setattr(
        runs,
        "_save_all",
        lambda connect, jobs, states, *_: home.append((connect(), states, *attached)) or True,
    )
    places = Places(tmp_path / runs.STATES)
    places.note([f"{tmp_path}/state/1"], "p-1", 1e9)
    places.note([f"{tmp_path}/state/2"], "p-2", 2e9)

    def start(id):
        raise Refused("PUT: 400 outbid")

    account = SimpleNamespace(
        instances=lambda prefix: [asleep, awake],
        start=start,
        attach_key=lambda *what: attached.append(what),
    )
    (tmp_path / "key").touch()
    watch = Keeper(account, "p-", ManualClock())
    runs._rescue(watch, tmp_path, tmp_path, ManualClock(), said.append)
    assert home == [("p-2", {f"{tmp_path}/state/2": 2e9}, (2, "key"))]
    assert said == ["p-1: Refused: PUT: 400 outbid"]


def test_reap_says_where_nothing_could_be_looked_up(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reap"]) == 0
    told = capsys.readouterr().out
    assert (
        f"{tmp_path}: no run has rented machines from this folder" in told and "is left" not in told
    )


def test_reap_asks_for_no_key_where_nothing_was_rented(tmp_path):
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    run._lock.close()
    assert not runs.reap(tmp_path, lambda market: pytest.fail("asked"), print)


# ---- work that cannot be saved -------------------------------------------------------------------


def ledger_of(run, **facts):
    """The ledger of a killed run, with its machine as the market returned it."""
    book = books.Ledger(run.folder.parents[2] / "ledger.jsonl", run.name, lambda: 0.0)
    book.write("rent", label=f"{run.prefix}1-1", instance=7, dph=1.0)
    return book


def numbered(account):
    """The account, whose only machine of ours has the id 7."""
    show, [label] = account._show, account.labels
    account._show = lambda name: replace(show(name), id=7)
    for name in ("stop", "start", "destroy"):
        call = getattr(account, name)
        setattr(account, name, lambda id, call=call: call({7: label}[id]))
    account.instance = lambda id: show(label) if account.labels else None
    account.attach_key = lambda *_: None
    return label


WAYS = ["no answer", "login denied", "transfer stalls", "waits for its GPU", "states damaged"]


@pytest.mark.parametrize("way", WAYS)
def test_a_machine_whose_work_cannot_be_saved_is_stopped_and_listed_and_not_destroyed(
    tmp_path, monkeypatch, killed, capsys, way
):
    run, account = killed
    label, book = numbered(account), ledger_of(run)
    denied = transport.Denied("Permission denied (publickey)")
    stalled = transport.Unreachable("the transfer moved less than 1 MiB in 300 s")
    error = {"login denied": denied, "transfer stalls": stalled}.get(way, Broken.error)
    monkeypatch.setattr(runs, "Transport", type("Machine", (Broken,), {"error": error}))
    monkeypatch.setattr(command, "_connect", lambda name: account)
    if way == "waits for its GPU":
        account.stopped.add(label)
        account.start = lambda id: account.calls.append(("start", label))
    if way == "states damaged":
        (run.folder / runs.STATES).write_text("{")
    for _ in range(2):
        assert command.reap(tmp_path) == 1
        said = capsys.readouterr().out
        assert f"{label} (machine 7) is stopped" in said and "$0.75 a day" in said
        assert "`snakemake-vast reap --destroy 7`" in said
    assert account.labels == [label] and not account.destroyed and account.calls[-1][0] == "stop"
    assert "no killed run" in refused(tmp_path, "8", capsys) and not account.destroyed
    assert command.reap(tmp_path, ["7"]) == 0
    assert not account.labels and not runs.dead_runs(tmp_path)
    assert books.open_rentals(books.read(book.path)) == []


def refused(folder, id, capsys):
    """What is said when a machine that is none of a killed run shall be destroyed."""
    assert command.reap(folder, [id]) == 1
    return capsys.readouterr().err


def test_a_stopped_machine_is_started_again_and_destroyed_once_its_work_is_saved(
    tmp_path, monkeypatch, killed
):
    run, account = killed
    label, book = numbered(account), ledger_of(run)
    monkeypatch.setattr(runs, "Transport", Broken)
    assert runs.dollars_a_day(runs.reap(tmp_path, lambda market: account, print).stopped) == 0.75
    stop = books.read(book.path)[-1]
    assert stop["what"] == "stop" and stop["dph"] == 0.75 / 24 and stop["instance"] == 7
    monkeypatch.setattr(runs, "Transport", Hostile)  # it answers, and has nothing to transfer
    assert not runs.reap(tmp_path, lambda market: account, print)
    assert account.calls[-1] == ("start", label) and account.destroyed == [label]
    assert [line["what"] for line in books.read(book.path)][-2:] == ["stop", "end"]


def test_what_a_stopped_machine_has_does_not_replace_newer_work(tmp_path, monkeypatch, killed):
    """A later run has continued the job. The machine stays until somebody decides."""
    run, account = killed
    label = numbered(account)
    ledger_of(run)
    monkeypatch.setattr(runs, "Transport", Broken)
    assert runs.reap(tmp_path, lambda market: account, print).stopped
    here = Path(tmp_path, "later")
    here.mkdir()
    earlier = [folder / runs.STATES for folder in runs.dead_runs(tmp_path)]
    Places(here / runs.STATES, lambda: earlier).note([f"{tmp_path}/state/a"], "later-1", 1e9)
    (tmp_path / "state/a/checkpoint-9").mkdir(parents=True)
    monkeypatch.setattr(runs, "Transport", Hostile)  # it would remove what the machine lacks
    assert [machine.id for machine in runs.reap(tmp_path, lambda market: account, print).stopped]
    assert (tmp_path / "state/a/checkpoint-9").is_dir() and account.labels == [label]


# ---- hostile machines ----------------------------------------------------------------------------


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """A killed run with a machine that rented and sent a state, and what `reap` finds."""
    run, label = killed_run(tmp_path)
    account = Account(label, addresses=(("host", 22),))
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    return run, account


@pytest.mark.parametrize("answer", [[], None, 5, {}, {"there": True}, {"states": [[]]}])
def test_a_machine_that_answers_nonsense_is_stopped_and_all_others_are_ended(
    tmp_path, monkeypatch, killed, answer
):
    run, account = killed
    account.labels.append(f"{run.prefix}2-1")
    machine = type("Odd", (Hostile,), {"answers": {"states": answer, "snapshot": answer}})
    monkeypatch.setattr(runs, "Transport", machine)
    left = runs.reap(tmp_path, lambda market: account, print)
    odd = f"{run.prefix}1-1"
    assert not left.listed and [machine.label for machine in left.stopped] == [odd]
    assert account.labels == [odd] and account.stopped == {odd}


def test_a_machine_that_sends_its_state_for_ever_keeps_no_machine_alive(
    tmp_path, monkeypatch, killed
):
    run, account = killed
    for n in (2, 3):
        account.labels.append(f"{run.prefix}{n}-1")
        Places(run.folder / runs.STATES).note([f"{tmp_path}/state/{n}"], account.labels[-1], 1e9)
    over, saved = threading.Event(), []

    class Machine(Hostile):
        def pull_state(self, copy, state, parts, most):
            if self.name.endswith("2-1"):
                over.wait()
            saved.append(state)

    monkeypatch.setattr(runs, "Transport", Machine)
    monkeypatch.setattr(runs, "RESCUE", 0.5)
    left = runs.reap(tmp_path, lambda market: account, print)
    assert [machine.label for machine in left.stopped] == account.labels == [f"{run.prefix}2-1"]
    assert sorted(saved) == [f"{tmp_path}/state/3", f"{tmp_path}/state/a"]
    over.set()


def test_a_machine_writes_and_removes_only_the_states_that_were_sent_to_it(
    tmp_path, monkeypatch, killed
):
    """It could name any folder, and everything in it that the machine lacks would be removed."""
    run, account = killed
    for name in ("mine/kept", "state/a/checkpoint-1", "state/b/checkpoint-1"):
        (tmp_path / name).mkdir(parents=True)
    label = f"{run.prefix}2-1"
    account.labels.append(label)
    Places(run.folder / runs.STATES).note([f"{tmp_path}/state/b"], label, 1e9)
    named = [f"{tmp_path}/mine", f"{tmp_path}/new", f"{tmp_path}/state/a", f"{tmp_path}/state/b"]
    answers = Hostile.answers | {"states": {"states": named}}

    class Machine(Hostile):
        def ask(self, what, *rest):
            self.answers = answers if self.name.endswith("2-1") else {"snapshot": {"there": False}}
            return super().ask(what, *rest)

    monkeypatch.setattr(runs, "Transport", Machine)
    assert not runs.reap(tmp_path, lambda market: account, print)
    assert (tmp_path / "mine/kept").is_dir() and not (tmp_path / "new").exists()
    assert (tmp_path / "state/a/checkpoint-1").is_dir(), "the state of another machine's job"
    assert not (tmp_path / "state/b/checkpoint-1").exists(), (
        "its own state is as the machine has it"
    )


@pytest.mark.parametrize("held", [True, False])
def test_a_machine_that_can_be_neither_listed_nor_shown_is_ended(
    tmp_path, monkeypatch, killed, held
):
    """It is reported as left, since nothing shows its end. With work it is stopped instead."""
    run, account = killed
    [label] = account.labels
    book = books.Ledger(tmp_path / "ledger.jsonl", run.name, lambda: 0.0)
    book.write("rent", label=label, instance=label, dph=1.0)
    if not held:
        (run.folder / runs.STATES).unlink()

    def unreadable(*_):
        raise TypeError("list indices must be integers or slices, not str")

    ended = []
    monkeypatch.setattr(account, "stop", lambda id: ended.append(("stop", id)), raising=False)
    monkeypatch.setattr(account, "destroy", lambda id: ended.append(("destroy", id)))
    account.instances = account.instance = unreadable
    assert runs.reap(tmp_path, lambda market: account, print, 30.0).listed == [label]
    assert set(ended) == {("stop" if held else "destroy", label)}


def test_a_machine_that_cannot_be_ended_keeps_no_other(tmp_path, killed):
    run, account = killed
    account.labels.insert(0, f"{run.prefix}0-1")
    destroy = account.destroy

    def odd(id):
        if id.endswith("-0-1"):
            raise RecursionError("maximum recursion depth exceeded")
        destroy(id)

    account.destroy = odd
    (run.folder / runs.STATES).unlink()
    assert runs.reap(tmp_path, lambda market: account, print, 30.0).listed == [account.labels[0]]
    assert len(account.labels) == 1


def test_reap_ends_machines_by_their_ids_when_the_list_cannot_be_read(
    tmp_path, monkeypatch, killed
):
    """Their states are saved before."""
    run, account = killed
    monkeypatch.setattr(runs, "Transport", Hostile)
    [label] = account.labels
    account.labels.append("another-run-1-1")
    book = books.Ledger(tmp_path / "ledger.jsonl", run.name, lambda: 0.0)
    book.write("rent", label=label, instance=label, dph=1.0)

    def unreadable(prefix):
        raise TypeError("list indices must be integers or slices, not str")

    account.instances, said = unreadable, []
    assert runs.reap(tmp_path, lambda market: account, said.append, 30.0).listed == ["?"]
    assert account.labels == ["another-run-1-1"] and said[0].endswith("state/a")
    assert "list indices must be integers" in said[-2]
    assert books.open_rentals(books.read(book.path)) == [], "it is not booked"
    assert runs.dead_runs(tmp_path) == [run.folder], "machines without an id may be left"


def test_a_run_whose_market_has_no_key_keeps_no_other_run_alive(tmp_path, monkeypatch, killed):
    _, account = killed
    monkeypatch.setattr(runs, "Transport", Hostile)
    other = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "other", 1.0)
    (other.folder / "key").touch()
    books.Ledger(tmp_path / "ledger.jsonl", other.name, lambda: 0.0).write(
        "intend", label=f"{other.prefix}1-1", offer=1, machine=1, dph=1.0, seconds=60.0
    )
    other._lock.close()

    def connect(market):
        if market == "other":
            raise NoKey("no key of the other market")
        return account

    [problem] = runs.reap(tmp_path, connect, print).problems
    assert "no key of the other market" in problem
    assert account.labels == [] and runs.dead_runs(tmp_path) == [other.folder]
