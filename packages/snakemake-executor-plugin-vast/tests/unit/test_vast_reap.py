"""`snakemake-vast reap` ends every machine, whatever is damaged or interrupted. No network."""

import json
import threading
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_vast as plugin
from snakemake_executor_plugin_vast import command
from snakemake_executor_plugin_vast import market as markets
from snakemake_executor_plugin_vast.driver import runs
from snakemake_executor_plugin_vast.money import ledger as books
from vast_support import memory_market
from vast_support.killed_run import Broken, Hostile, killed_run
from vast_support.stand_ins import Account, ManualClock


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    monkeypatch.setattr(runs, "Transport", Hostile)


DAMAGE = [
    {},
    {"what": "rent"},
    {"what": [], "run": "r", "time": 0.0},
    {"what": "intend", "label": "a", "machine": 1, "dph": None, "seconds": 60.0},
    {"what": "stop", "label": "a", "dph": 0.1, "seconds": {}, "dollars": 1.0},
    {"what": "end", "label": []},
]


@pytest.mark.parametrize("line", DAMAGE, ids=str)
def test_a_line_of_the_ledger_in_another_form_keeps_no_machine_alive(
    tmp_path, monkeypatch, capsys, line
):
    """Its machines are ended, and the file and the line are named."""
    run, label = killed_run(tmp_path)
    account = Account(label, addresses=(("host", 22),))
    with open(tmp_path / "ledger.jsonl", "a") as file:
        common = {"run": run.name, "time": 0.0} if "label" in line else {}
        file.write(json.dumps(common | line) + "\n")
    monkeypatch.setattr(command, "_connect", lambda name: account)
    assert command.reap(tmp_path) == 1
    assert account.labels == []
    said = capsys.readouterr().err
    assert f"{tmp_path}/ledger.jsonl, line 2: " in said and "was expected" in said


@pytest.mark.parametrize("file", [runs.STATES, "ledger"])
def test_a_file_that_cannot_be_read_keeps_no_machine_alive(tmp_path, monkeypatch, file):
    run, label = killed_run(tmp_path)
    account = Account(label, addresses=(("host", 22),))
    if file == "ledger":

        def read(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(books, "read", read)
        left = runs.reap(tmp_path, lambda market: account, print)
        assert account.labels == [] and "Permission denied" in left.problems[0]
    else:
        (run.folder / runs.STATES).write_text("[5]")
        left = runs.reap(tmp_path, lambda market: account, print)
        assert [machine.label for machine in left.stopped] == account.labels == [label]


def test_work_is_not_destroyed_though_neither_the_ledger_nor_the_list_of_states_can_be_read(
    tmp_path,
):
    run, label = killed_run(tmp_path)
    account = Account(label, addresses=(("host", 22),))
    (tmp_path / "ledger.jsonl").write_text("not\njson\n")
    (run.folder / runs.STATES).write_text("")
    left = runs.reap(tmp_path, lambda market: account, print)
    assert [machine.label for machine in left.stopped] == account.labels == [label]


def test_stopped_machines_are_listed_and_bounded_though_another_run_cannot_be_ended(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runs, "Transport", Broken)
    labels = [killed_run(tmp_path)[1] for _ in range(5)]
    broken, _ = killed_run(tmp_path)
    (broken.folder / runs.FACTS).write_text("")
    account = Account(*labels, addresses=(("host", 22),))
    monkeypatch.setattr(command, "_connect", lambda name: account)
    assert command.reap(tmp_path) == 1
    said = capsys.readouterr()
    assert said.out.count("$0.75 a day") == 5 and broken.name in said.err
    executor = object.__new__(plugin.Executor)
    executor.settings, executor.workdir, said = plugin.ExecutorSettings(), tmp_path, []
    executor._log, executor._earlier = said.append, None
    executor.keeper = SimpleNamespace(stopped={})
    assert "$3.75 a day" in executor._barred(account)
    assert any(broken.name in text for text in said)


def test_the_key_of_the_environment_serves_all_runs(tmp_path, monkeypatch):
    """It is taken out of the environment for the first one."""
    monkeypatch.setattr(markets, "find_market", lambda name: memory_market)
    monkeypatch.setenv("MEMORY_MARKET_KEY", "key")
    for _ in range(2):
        killed_run(tmp_path)
    assert command.reap(tmp_path) == 0
    assert runs.dead_runs(tmp_path) == []


def test_a_machine_hears_from_this_computer_while_its_states_are_saved(tmp_path, monkeypatch):
    """Else its dead-man switch would stop it in the middle of a long transfer."""
    _, label = killed_run(tmp_path)
    account, touched = Account(label, addresses=(("host", 22),)), threading.Event()

    class Machine(Hostile):
        def command(self, text, *rest):
            if text.startswith("touch ") and text.endswith("/.snakemake/vast/jobs/lease"):
                touched.set()
            return super().command(text, *rest)

        def pull_state(self, copy, state, parts, most):
            assert touched.wait(20), "there was no sign of life"

    monkeypatch.setattr(runs, "Transport", Machine)
    assert not runs.reap(tmp_path, lambda market: account, print)
    assert account.labels == []


def test_machines_that_another_process_ends_are_left_to_it(tmp_path):
    """Two that save one state would remove what the other one writes."""
    _, label = killed_run(tmp_path)
    account, others = Account(label, addresses=(("host", 22),)), []

    def meanwhile(market):
        assert runs.dead_runs(tmp_path) == []
        others.append(runs.reap(tmp_path, lambda market: pytest.fail("asked"), print))
        return account

    assert not runs.reap(tmp_path, meanwhile, print)
    assert len(others) == 1 and not others[0] and account.labels == []


def test_an_interrupt_says_that_machines_may_be_left(tmp_path, monkeypatch, capsys):
    _, label = killed_run(tmp_path)

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_connect", interrupted)
    assert command.reap(tmp_path) == 130
    assert "machines may be left" in capsys.readouterr().err
