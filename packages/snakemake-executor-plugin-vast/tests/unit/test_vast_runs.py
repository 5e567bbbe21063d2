"""Runs that were killed: whose machines they are, and how they are ended. No network."""

from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.command import main
from snakemake_executor_plugin_vast.driver import runs
from snakemake_executor_plugin_vast.market.protocol import Instance, Refused
from snakemake_executor_plugin_vast.money import ledger as books
from vast_support.stand_ins import Account, ManualClock


def test_a_run_is_dead_when_its_process_is(tmp_path):
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    assert runs.dead_runs(tmp_path) == []
    run._lock.close()  # as the kernel does for a killed process
    assert runs.dead_runs(tmp_path) == [run.folder]


def test_a_run_that_ended_well_leaves_no_key(tmp_path):
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    (run.folder / "key").write_text("private")
    run.over([])
    assert not run.folder.exists() and runs.dead_runs(tmp_path) == []


def test_reap_ends_what_a_killed_run_left_and_books_it(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    book = books.Ledger(tmp_path / "ledger.jsonl", run.name, lambda: 0.0)
    label = f"{run.prefix}1-1"
    facts = {"offer": 1, "machine": 1, "dph": 1.0, "seconds": 60.0}
    book.write("intend", label=label, **facts)
    run._lock.close()
    account, said = Account(label, "another-run-1-1"), []
    assert runs.reap(tmp_path, lambda market: account, said.append) == []
    assert account.labels == ["another-run-1-1"]
    assert books.open_rentals(books.read(book.path)) == []
    assert runs.dead_runs(tmp_path) == []


@pytest.mark.parametrize("ledger", [None, "not\njson\n"])
def test_reap_ends_machines_whose_ledger_is_lost(tmp_path, monkeypatch, ledger):
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    monkeypatch.setattr(runs, "_rescue", lambda *_: None)
    run = runs.Run(tmp_path, tmp_path / "ledger.jsonl", "vast", 1.0)
    (run.folder / "key").touch()  # as before each rental
    run._lock.close()
    account = Account(f"{run.prefix}1-1")
    if ledger is None:
        assert runs.reap(tmp_path, lambda market: account, print) == []
    else:
        (tmp_path / "ledger.jsonl").write_text(ledger)
        with pytest.raises(ValueError, match="ledger.jsonl, line 1"):
            runs.reap(tmp_path, lambda market: account, print)
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
        "_save_all_states",
        lambda connection, *_: home.append((connection, *attached)) or True,
    )

    def start(id):
        raise Refused("PUT: 400 outbid")

    account = SimpleNamespace(
        instances=lambda: [asleep, awake],
        start=start,
        attach_key=lambda *what: attached.append(what),
    )
    (tmp_path / "key").touch()
    watch = SimpleNamespace(market=account, prefix="p-")
    runs._rescue(watch, tmp_path, tmp_path, ManualClock(), said.append)
    assert home == [("p-2", (2, "key"))] and said == ["p-1: PUT: 400 outbid"]


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
    assert runs.reap(tmp_path, lambda market: pytest.fail("asked"), print) == []
