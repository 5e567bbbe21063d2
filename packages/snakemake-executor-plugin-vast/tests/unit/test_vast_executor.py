"""The executor's parts, each alone: keeper, start script, files, settings. No network."""

import asyncio
import os
import re
import shutil
import subprocess
import threading
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_vast as plugin
from snakemake_executor_plugin_vast import command, settings
from snakemake_executor_plugin_vast.driver import rental, runs, task, work
from snakemake_executor_plugin_vast.driver.keeper import Keeper
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.hooks import Hooks, NotAllowed, Workflow
from snakemake_executor_plugin_vast.machine import files, transport
from snakemake_executor_plugin_vast.market import vast
from snakemake_executor_plugin_vast.market.protocol import Requirements
from snakemake_executor_plugin_vast.money import ledger as books
from snakemake_interface_common.exceptions import WorkflowError
from vast_support.stand_ins import Account, ManualClock

KEY = "0123456789abcdef-secret"


# ---- the keeper ----------------------------------------------------------------------------------


def keeper(account, ended=None):
    return Keeper(account, "p-", ManualClock(), ended=(ended if ended is not None else []).append)


def test_strays_end_and_what_is_wanted_or_foreign_stays():
    account = Account("p-1-1", "p-2-2", "other-1")
    watch = keeper(account)
    watch._wanted.add("p-1-1")
    watch.look()
    assert account.destroyed == ["p-2-2"] and sorted(account.labels) == ["other-1", "p-1-1"]


@pytest.mark.parametrize("trouble", [{}, {"deaf": 3}, {"down": 4}])
def test_an_end_counts_when_the_list_no_longer_names_it(trouble):
    account, ended = Account("p-1-1", "p-2-2", **trouble), []
    watch = keeper(account, ended)
    watch._wanted |= {"p-1-1", "p-2-2"}
    assert watch.end_all(600.0) == []
    assert account.labels == [] and sorted(ended) == ["p-1-1", "p-2-2"]


def test_books_that_cannot_be_written_keep_no_machine_alive():
    """The disk of the driver is full: one machine has ended, another is to end."""
    account = Account("p-2-2")

    def full(label):
        raise OSError(28, "No space left on device")

    watch = Keeper(account, "p-", ManualClock(), ended=full)
    watch._wanted.add("p-2-2")
    watch._ending["p-1-1"] = 1  # gone at the next look
    assert watch.end_all(600.0) == []
    assert account.destroyed == ["p-2-2"]


def test_what_cannot_be_ended_is_named():
    watch = keeper(Account("p-1-1", deaf=10**6))
    assert watch.end_all(60.0) == ["p-1-1"]


def test_machines_end_by_their_ids_when_the_list_cannot_be_read():
    """Another market may raise anything. A machine whose order was not answered may be left."""
    account, ended = Account("p-1-1", "p-2-2", "other-1", deaf=1), []
    watch = keeper(account, ended)
    watch._wanted |= {"p-1-1", "p-2-2", "p-3-3"}
    for label in ("p-1-1", "p-2-2"):
        watch.know(label, label)

    def unreadable(prefix):
        raise KeyError("22/tcp")

    account.instances = unreadable
    assert watch.end_all(60.0) == ["p-3-3"]
    assert account.labels == ["other-1"] and sorted(ended) == ["p-1-1", "p-2-2"]


@pytest.mark.parametrize("listed", [True, False])
def test_a_machine_with_work_that_is_not_saved_is_stopped_and_never_destroyed(listed):
    account, ended, halted = Account("p-1-1", "p-2-2", addresses=()), [], []
    watch = keeper(account, ended)
    watch.halted = lambda instance: halted.append(instance.label)
    for label in ("p-1-1", "p-2-2"):
        watch._wanted.add(label)
        watch.know(label, label)
    watch.hold("p-1-1")
    if not listed:
        account.down = 10**6
    assert watch.end_all(60.0) == ([] if listed else ["?"])
    assert account.labels == ["p-1-1"] and account.calls == [("stop", "p-1-1")]
    assert account.destroyed == ["p-2-2"] and ended == ["p-2-2"]
    assert halted == list(watch.stopped) == ["p-1-1"]


def test_a_stop_is_repeated_until_the_machine_is_listed_as_stopped():
    account = Account("p-1-1")
    watch = keeper(account)
    watch._wanted.add("p-1-1")
    watch.hold("p-1-1")
    account.stop = lambda id: account.calls.append(id)  # accepted, and nothing happens
    assert watch.end_all(30.0) == ["p-1-1"], "it is billed, so it is reported as left"
    assert len(account.calls) > 3 and not account.destroyed


def test_a_machine_whose_work_is_saved_after_all_is_destroyed():
    account = Account("p-1-1")
    watch = keeper(account)
    watch.hold("p-1-1")
    watch.release("p-1-1")
    assert watch.end_all(30.0) == [] and account.destroyed == ["p-1-1"]


def test_a_machine_that_appears_late_is_found():
    account, ended = Account(), []
    watch = keeper(account, ended)
    watch._ending["p-1-1"] = 0  # its create was never answered
    watch.look()
    assert not ended
    account.labels.append("p-1-1")
    watch.look()
    assert account.destroyed == ["p-1-1"]
    watch.look()
    watch.look()
    assert ended == ["p-1-1"]


def test_nobody_is_asked_for_money_while_the_market_refuses_the_key(fake):
    executor = object.__new__(plugin.Executor)
    job = SimpleNamespace(rule=SimpleNamespace(name="fit"), wildcards={})
    executor.settings, executor.logger = plugin.ExecutorSettings(), None
    executor.dag = SimpleNamespace(needrun_jobs=lambda: [job])
    executor._needs_machine = lambda job: True
    executor._requirements = lambda job: Requirements()
    request = executor._request(vast.Vast("wrong-key-wrong-key", fake.url, ManualClock()))
    with pytest.raises(NotAllowed, match="Nothing was rented: .*\n.*Check VAST_API_KEY"):
        request.offers()


# ---- files ---------------------------------------------------------------------------------------


def test_sources_are_what_git_tracks_or_could(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("kept.py", "new.py", "gone.py", "big.bin", "results/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * (100 if name == "big.bin" else 1))
    (tmp_path / ".gitignore").write_text("results\n")
    subprocess.run(["git", "add", "kept.py", "gone.py"], cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    (tmp_path / "same.py").symlink_to("kept.py")
    (tmp_path / "key").symlink_to("/etc/hostname")
    kept, left_out = files.manifest(tmp_path, ["results/x", "../far.py"], 50)
    assert kept == [".gitignore", "kept.py", "new.py", "results/x", "same.py"]
    assert [text.split(":")[0] for text in left_out] == ["../far.py", "big.bin", "key"]


def test_what_changed_is_sent_again(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("1")
    before = work.file_signature(str(tmp_path / "d"))
    assert before == work.file_signature(str(tmp_path / "d"))
    (tmp_path / "d/a").write_text("12")
    assert work.file_signature(str(tmp_path / "d")) != before
    assert work.file_signature(str(tmp_path / "none")) is None


def programs(folder, *names):
    """A folder with programs that do nothing, or those of this computer, for PATH."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or shutil.which("true"))
    return str(folder)


@pytest.mark.parametrize("missing", ["ssh", "ssh-keygen", "rsync"])
def test_a_missing_program_is_named_before_anything_is_asked_or_rented(
    tmp_path, monkeypatch, missing
):
    there = {"ssh", "ssh-keygen", "rsync"} - {missing}
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", *there))
    executor = object.__new__(plugin.Executor)
    executor.pool = None
    with pytest.raises(transport.Failed, match=f"lacks {missing}, .*apt-get install"):
        executor._open_pool()


def test_what_is_wrong_here_is_found_before_anything_is_rented(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", "ssh", "ssh-keygen", "rsync"))
    keys = transport.Keyring(tmp_path / "a folder with spaces")
    way = transport.Transport(keys, "name", ("localhost", 22))
    way.check()
    asked = subprocess.run([*way._ssh, "-G", "localhost"], capture_output=True, text=True).stdout
    assert f"identityfile {keys.private}" in asked
    way._ssh += ["-o", "NoSuchOption=yes"]
    with pytest.raises(transport.Failed, match="nosuchoption"):
        way.check()
    keys.forget()


# ---- the executor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonsense, told",
    [
        ({"market": "nowhere"}, "--vast-market: nowhere found, but neither a module"),
        ({"max_machines": 0}, "--vast-max-machines: 0 found, a number above 0"),
        ({"max_hours": -1.0}, "--vast-max-hours: -1.0 found, a number above 0"),
        ({"budget": float("nan")}, "--vast-budget: nan found, a number of at least 0"),
        ({"regions": "DE, Poland"}, "--vast-regions: Poland found, two-letter codes"),
        ({"ledger": "{stduy}.jsonl"}, "--vast-ledger: {stduy}.jsonl found, only {study}"),
    ],
)
def test_nonsense_settings_are_refused_before_anything_runs(nonsense, told):
    """With no machine at a time a job would wait for ever."""
    settings.check(plugin.ExecutorSettings())
    with pytest.raises(WorkflowError, match=re.escape(told)):
        settings.check(plugin.ExecutorSettings(**nonsense))


def test_no_child_of_snakemake_itself_gets_a_secret(tmp_path, monkeypatch):
    """Snakemake runs local rules by itself."""
    monkeypatch.chdir(tmp_path)
    for name in vast.SECRETS:
        monkeypatch.setenv(name, KEY)
    executor = object.__new__(plugin.Executor)
    executor.workflow = SimpleNamespace(executor_settings=None)
    executor.__post_init__()
    assert not {*vast.SECRETS} & {*os.environ}
    assert {*vast.SECRETS} <= {*executor._environment}


def test_a_renter_that_is_closing_rents_nothing():
    closing = threading.Event()
    closing.set()
    renter = object.__new__(rental.Renter)
    renter.closing = closing
    with pytest.raises(rental.Closing):
        renter._check_open()


@pytest.mark.parametrize("failure", [None, "pool", "books"])
def test_whatever_fails_at_the_end_machines_are_ended_and_sums_are_reported(tmp_path, failure):
    book = books.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 0.0)
    if failure == "books":
        book.path.write_text("not\njson\n")
    ended, said = [], []

    def close():
        ended.append("jobs")
        if failure == "pool":
            raise RuntimeError("a slot is stuck")

    executor = object.__new__(plugin.Executor)
    executor.pool = SimpleNamespace(close=close)
    executor.lane = SimpleNamespace(close=lambda: None)
    executor.keeper = SimpleNamespace(
        end_all=lambda _: ended.append("machines") or [], failed="", stopped={}
    )
    executor.renter = SimpleNamespace(settle=lambda: ended.append("books"))
    executor.keys = SimpleNamespace(forget=lambda: ended.append("key"))
    executor.run_ = SimpleNamespace(over=lambda left: ended.append(left))
    executor.ledger, executor.clock, executor.limits = book, ManualClock(), Limits()
    executor._closed, executor._log = threading.Lock(), said.append
    executor.shutdown()  # as Snakemake calls it after an exception in a status check
    executor.shutdown()
    assert ended == ["jobs", "machines", "books", "key", []]
    reported = any(text.startswith("this run: 0 machines") for text in said)
    assert reported == (failure != "books")


# ---- what others say -----------------------------------------------------------------------------

HOSTILE, SHOWN = "no \x1b]0;owned\x07\x9b2J", r"no \x1b]0;owned\x07\x9b2J"


def test_no_message_of_a_market_controls_the_terminal(tmp_path, monkeypatch, capsys):
    said = []
    executor = object.__new__(plugin.Executor)
    executor.logger = SimpleNamespace(info=said.append)
    executor._log(HOSTILE)
    assert said == [f"vast: {SHOWN}"]

    def refuse(folder, connect, log, give_up):
        log(HOSTILE)
        return runs.Left(problems=[HOSTILE])

    monkeypatch.setattr(runs, "reap", refuse)
    (tmp_path / runs.PLACE).mkdir(parents=True)
    assert command.reap(tmp_path) == 1
    assert capsys.readouterr() == (f"{SHOWN}\n", f"{SHOWN}\n")


def test_no_output_of_a_job_controls_the_terminal():
    reported = []
    executor = object.__new__(plugin.Executor)
    executor.hooks = None
    executor.report_job_error = lambda info, msg, **_: reported.append(msg)
    outcome = task.Outcome(f"exit code 1: {HOSTILE}", f"first\n{HOSTILE}")
    infos = [
        SimpleNamespace(aux={"task": SimpleNamespace(outcome=outcome)}),
        SimpleNamespace(aux={"problem": HOSTILE}),
    ]

    async def check():
        return [info async for info in executor.check_active_jobs(infos)]

    assert asyncio.run(check()) == []
    assert reported == [f"exit code 1: {SHOWN}\nfirst\n{SHOWN}\n", f"{SHOWN} "]


def test_hooks_hear_of_jobs_that_failed_for_the_budget_and_an_error_of_theirs_fails_no_other(
    tmp_path,
):
    heard, reported, logged = [], [], []

    class Loud:
        def over_budget(self, workflow, reason):
            heard.append(reason)
            raise RuntimeError("no network")

    executor = object.__new__(plugin.Executor)
    executor.hooks = Hooks(Workflow(tmp_path, {}), [Loud(), object()])
    executor.report_job_error = lambda info, msg, **_: reported.append(msg)
    executor._log = logged.append
    spent = "budget of $1.00: $0.90 spent, $0.00 reserved for running jobs, $0.20 more needed"
    reasons = [spent, "exit code 1: budget of $1.00 is a text of the job", spent]
    tasks = [SimpleNamespace(outcome=task.Outcome(reason)) for reason in reasons]
    infos = [SimpleNamespace(aux={"task": one}) for one in tasks]

    async def check():
        return [info async for info in executor.check_active_jobs(infos)]

    assert asyncio.run(check()) == []
    assert heard == [spent, spent] and len(reported) == 3
    assert logged == ["RuntimeError: no network"] * 2
