"""The Vast executor's parts, each alone: API calls, keeper, files, runs. No network, no waits."""

import json
import os
import re
import subprocess
import threading
from types import SimpleNamespace

import pytest
import requests
from snakemake_interface_common.exceptions import WorkflowError
from vast_stands import Account, Still

import snakemake_executor_plugin_vast as plugin
from ablation.machine import GIT_STATE
from snakemake_executor_plugin_vast import api, rental, settings, transport, work
from snakemake_executor_plugin_vast import ledger as books
from snakemake_executor_plugin_vast.keeper import Keeper
from snakemake_executor_plugin_vast.offers import Wish
from snakemake_executor_plugin_vast.settings import SETUP, VENV
from snakemake_executor_plugin_vast.watch import Limits

KEY = "0123456789abcdef-secret"


# ---- the API -------------------------------------------------------------------------------------


def vast(monkeypatch, *replies):
    """A client whose calls get these replies in turn: (status, body) or an exception."""
    left, sent = list(replies), []

    def request(self, method, url, **more):
        sent.append((method, url, more))
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        answer = requests.Response()
        answer.status_code, body = reply
        answer._content = (body if isinstance(body, str) else json.dumps(body)).encode()
        return answer

    monkeypatch.setattr(requests.Session, "request", request)
    client = api.Vast(KEY, "http://fake", Still(), jitter=lambda: 0.0)
    return client, sent


@pytest.mark.parametrize(
    "reply, kind",
    [
        ((404, {"error": "no_such_ask"}), api.NoSuchOffer),
        ((410, {"error": "no_such_ask"}), api.NoSuchOffer),
        ((400, {"error": "invalid_args"}), api.Refused),
        ((401, {"error": "auth_error"}), api.Refused),
        ((429, "API requests too frequent: endpoint threshold=4.5"), api.Unavailable),
        ((500, "Internal Server Error"), api.LostReply),
        ((200, "no json"), api.LostReply),
        ((200, {"success": True}), api.LostReply),
        (requests.ReadTimeout("slow"), api.LostReply),
        (requests.ConnectionError("cut"), api.LostReply),
    ],
)
def test_a_create_is_sent_once_and_its_failure_says_what_is_known(monkeypatch, reply, kind):
    client, sent = vast(monkeypatch, reply)
    with pytest.raises(api.VastError) as caught:
        client.create(5, {"image": "x"})
    assert type(caught.value) is kind and len(sent) == 1


def test_what_may_be_repeated_is_with_growing_waits(monkeypatch):
    down = [(503, "busy"), requests.ConnectionError("cut"), (429, "too frequent")]
    client, sent = vast(monkeypatch, *down, (200, {"offers": [{"id": 3}]}))
    assert [offer.id for offer in client.search({})] == [3]
    assert len(sent) == 4 and client.clock.time > 2 + 4 + 8


def test_it_gives_up_in_the_end(monkeypatch):
    client, sent = vast(monkeypatch, *[(503, "busy")] * api.TRIES)
    with pytest.raises(api.Unavailable):
        client.instances()
    assert len(sent) == api.TRIES


def test_calls_keep_their_distance(monkeypatch):
    client, _ = vast(monkeypatch, *[(200, {"new_contract": 1})] * 3)
    for _ in range(3):
        client.create(1, {})
    assert client.clock.time == pytest.approx(2 * api.PACE["create"])


def test_all_pages_of_the_list_are_read(monkeypatch):
    pages = [
        (200, {"instances": [{"id": 1}], "next_token": "t"}),
        (200, {"instances": [{"id": 2}]}),
    ]
    client, sent = vast(monkeypatch, *pages)
    assert [instance.id for instance in client.instances()] == [1, 2]
    assert sent[1][2]["params"]["after_token"] == "t"


@pytest.mark.parametrize("before", ["bad key ", "x" * 285])  # messages are cut after 300
def test_the_key_is_in_no_message_and_no_argument(monkeypatch, before):
    client, sent = vast(monkeypatch, (400, {"msg": f"{before}{KEY}"}))
    with pytest.raises(api.Refused) as caught:
        client.create(1, {})
    assert KEY[:4] not in str(caught.value) and "<key>" in str(caught.value)
    assert KEY not in repr(sent)


def test_the_key_is_found_where_the_official_client_puts_it(tmp_path):
    with pytest.raises(api.NoKey, match="VAST_API_KEY"):
        api.find_key({}, tmp_path)
    file = tmp_path / ".config/vastai/vast_api_key"
    file.parent.mkdir(parents=True)
    file.write_text("from file\n")
    assert api.find_key({}, tmp_path) == "from file"
    assert api.find_key({"VAST_API_KEY": "from env"}, tmp_path) == "from env"


# ---- the keeper ----------------------------------------------------------------------------------


def keeper(account, ended=None):
    return Keeper(account, "p-", Still(), ended=(ended if ended is not None else []).append)


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

    watch = Keeper(account, "p-", Still(), ended=full)
    watch._wanted.add("p-2-2")
    watch._ending["p-1-1"] = 1  # gone at the next look
    assert watch.end_all(600.0) == []
    assert account.destroyed == ["p-2-2"]


def test_what_cannot_be_ended_is_named():
    watch = keeper(Account("p-1-1", deaf=10**6))
    assert watch.end_all(60.0) == ["p-1-1"]


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


# ---- what the machine gets -----------------------------------------------------------------------


def site(**facts):
    given = {"workdir": "/data/a study", "image": "i", "setup": "", "activate": "", "smoke": ""}
    return rental.Site(**given, sources=list, silent=1800, later=7200, longest=86400, **facts)


def test_the_start_script_is_short_and_a_shell_understands_it():
    key = "ssh-ed25519 " + "A" * 68
    text = rental.onstart(site(), key, "https://console.vast.ai", Still(), 30.0)
    assert len(text) <= 4096 and key in text
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    code = text.partition("<<'END'\n")[2].partition("END\n")[0]
    compile(code, "deadman", "exec")


def test_the_environment_is_the_pinned_one(tmp_path):
    """The shipped `setup`, on a machine whose Python only notes what it is asked for."""
    python = tmp_path / "bin/python3"
    python.parent.mkdir()
    python.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/told
for last; do :; done
if [ "$2" = venv ]; then mkdir -p $last/bin && cp "$0" $last/bin/python; fi
""")
    python.chmod(0o755)
    command = SETUP.replace(VENV, str(tmp_path / "env"))
    subprocess.run(["bash", "-c", command], check=True, env={"PATH": f"{python.parent}:/bin"})
    made, *installed = (tmp_path / "told").read_text().splitlines()
    assert made.startswith("-m venv")
    assert [line.partition("-q ")[2] for line in installed] == [
        "-r requirements-torch.txt",
        "--no-deps --require-hashes -r requirements.txt",
        "--no-deps --no-build-isolation -e .",
    ]


# ---- files ---------------------------------------------------------------------------------------


def test_sources_are_what_git_tracks_or_could(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("kept.py", "new.py", "gone.py", "big.bin", "results/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * (100 if name == "big.bin" else 1))
    (tmp_path / ".gitignore").write_text("results\n")
    subprocess.run(["git", "add", "kept.py", "gone.py"], cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    kept, left_out = transport.manifest(tmp_path, ["results/x", "../far.py"], 50)
    assert kept == [".gitignore", "kept.py", "new.py", "results/x"]
    assert [text.split(":")[0] for text in left_out] == ["../far.py", "big.bin"]


def test_what_changed_is_sent_again(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("1")
    before = work.stand(str(tmp_path / "d"))
    assert before == work.stand(str(tmp_path / "d"))
    (tmp_path / "d/a").write_text("12")
    assert work.stand(str(tmp_path / "d")) != before
    assert work.stand(str(tmp_path / "none")) is None


def test_what_is_wrong_here_is_found_before_anything_is_rented(tmp_path):
    keys = transport.Keyring(tmp_path / "a folder with spaces")
    way = transport.Transport(keys, "name", ("localhost", 22))
    way.check()
    asked = subprocess.run([*way._ssh, "-G", "localhost"], capture_output=True, text=True).stdout
    assert f"identityfile {keys.private}" in asked
    way._ssh += ["-o", "NoSuchOption=yes"]
    with pytest.raises(transport.Failed, match="nosuchoption"):
        way.check()
    keys.forget()


def test_children_never_see_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("VAST_API_KEY", KEY)
    seen = []
    monkeypatch.setattr(transport.subprocess, "run", lambda command, **more: seen.append(more))
    way = object.__new__(transport.Transport)
    way._run(["ssh"], b"", 5)
    assert KEY not in repr(seen)


# ---- the executor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonsense, told",
    [
        ({"max_machines": 0}, "--vast-max-machines: 0 found, a number above 0"),
        ({"max_hours": -1.0}, "--vast-max-hours: -1.0 found, a number above 0"),
        ({"budget": float("nan")}, "--vast-budget: nan found, a number from 0"),
        ({"regions": "DE, Poland"}, "--vast-regions: Poland found, two letters"),
        ({"ledger": "{stduy}.jsonl"}, "--vast-ledger: {stduy}.jsonl found, only {study}"),
    ],
)
def test_nonsense_settings_are_refused_before_anything_runs(nonsense, told):
    """With no machine at a time a job would wait for ever."""
    settings.check(plugin.ExecutorSettings())
    with pytest.raises(WorkflowError, match=re.escape(told)):
        settings.check(plugin.ExecutorSettings(**nonsense))


def test_no_child_of_snakemake_itself_gets_a_secret(tmp_path, monkeypatch):
    """Local rules run outside of our own lane."""
    monkeypatch.chdir(tmp_path)
    for name in transport.SECRET:
        monkeypatch.setenv(name, KEY)
    executor = object.__new__(plugin.Executor)
    executor.workflow = SimpleNamespace(executor_settings=None)
    executor.__post_init__()
    assert not {*transport.SECRET} & {*os.environ}
    assert {*transport.SECRET} <= {*executor._environment}


def test_a_renter_that_is_closing_rents_nothing():
    closing = threading.Event()
    closing.set()
    renter = object.__new__(rental.Renter)
    renter.closing = closing
    with pytest.raises(rental.Closing):
        renter._check_open()


def test_a_rented_job_is_handed_the_commit_of_its_code(tmp_path, monkeypatch):
    """Its sources travel without .git."""
    state, sent = {"git_hash": "c0ffee", "git_dirty": True}, []
    task = work.Task("t", "true", {"A": "b"}, [], [], [], [], Wish())
    executor = object.__new__(plugin.Executor)
    executor.settings, executor.workdir = plugin.ExecutorSettings(), tmp_path
    executor.pool = SimpleNamespace(submit=sent.append)
    for name, answer in {"_rents": True, "_preemptible": False, "_pool": executor.pool}.items():
        monkeypatch.setattr(plugin.Executor, name, lambda *_, answer=answer: answer)
    for name in ("_catch_signals", "envvars", "format_job_exec", "report_job_submission"):
        monkeypatch.setattr(plugin.Executor, name, lambda *_: {})
    monkeypatch.setattr(plugin, "task_of", lambda *_: task)
    monkeypatch.setattr(plugin, "git_state", lambda folder: state)
    executor.dag = None
    executor.run_job(SimpleNamespace(resources={}, threads=1))
    assert [json.loads(t.environment[GIT_STATE]) for t in sent] == [state]


@pytest.mark.parametrize("fault", [None, "pool", "books"])
def test_whatever_fails_at_the_end_machines_are_ended_and_sums_are_told(tmp_path, fault):
    book = books.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 0.0)
    if fault == "books":
        book.path.write_text("not\njson\n")
    ended, said = [], []

    def close():
        ended.append("jobs")
        if fault == "pool":
            raise RuntimeError("a slot is stuck")

    executor = object.__new__(plugin.Executor)
    executor.pool = SimpleNamespace(close=close)
    executor.lane = SimpleNamespace(close=lambda: None)
    executor.keeper = SimpleNamespace(end_all=lambda _: ended.append("machines") or [], failed="")
    executor.renter = SimpleNamespace(settle=lambda: ended.append("books"))
    executor.keys = SimpleNamespace(forget=lambda: ended.append("key"))
    executor.run_ = SimpleNamespace(over=lambda left: ended.append(left))
    executor.ledger, executor.clock, executor.limits = book, Still(), Limits()
    executor._closed, executor._say = threading.Lock(), said.append
    executor.shutdown()  # as Snakemake calls it after an exception in a status check
    executor.shutdown()
    assert ended == ["jobs", "machines", "books", "key", []]
    told = any(text.startswith("this run: 0 machines") for text in said)
    assert told == (fault != "books")
