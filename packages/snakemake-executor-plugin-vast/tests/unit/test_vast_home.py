"""What comes home from a machine, and what is sent to it. No network."""

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.driver import rental, watch, work
from snakemake_executor_plugin_vast.machine import onboard, transport
from vast_support.attempts import exit, make_attempt
from vast_support.programs import needs_rsync


@pytest.fixture
def make(tmp_path):
    return partial(make_attempt, tmp_path)


# ---- home ----------------------------------------------------------------------------------------

MADE = ("results/model", "logs/job.log", "logs/job.tsv")


@pytest.mark.parametrize("hurt", [None, *MADE])
def test_outputs_logs_and_benchmarks_are_compared_before_success_is_told(make, tmp_path, hurt):
    for name in MADE:
        Path(tmp_path, name).parent.mkdir(exist_ok=True)
        Path(tmp_path, name).write_text(name)
    there = {name: onboard.sha256(str(tmp_path / name)) for name in MADE}
    told = {"outputs": [MADE[0]], "extras": list(MADE[1:])}
    attempt, connection = make(lambda now: exit(now, **there), **told)
    if hurt:
        (tmp_path / hurt).write_text("damaged")
        with pytest.raises(rental.Lost, match=f"transfer: {hurt} was damaged during the transfer"):
            attempt.run()
    else:
        attempt.run()
    assert {connection.request[key] == told[key] for key in told} == {True}
    assert set(connection.pulled) == {str(tmp_path / name) for name in MADE}


def test_a_full_disk_here_fails_the_job_and_buys_no_larger_machine(make, monkeypatch):
    attempt, _ = make(exit, outputs=["results/model"])
    ssh = transport.Transport.__new__(transport.Transport)
    ssh._ssh, ssh._host, ssh.name, ssh.timeout, ssh.stall = ["ssh"], "host", "m", 30.0, 300.0
    full = SimpleNamespace(returncode=11, stderr=b"rsync: write failed: No space left on device")
    monkeypatch.setattr(ssh, "_run", lambda *_: full)
    attempt.machine.connection.pull = ssh.pull
    with pytest.raises(work.RuleFailed, match="disk of this computer is full") as failed:
        attempt.run()
    assert watch.next_action("failed", 1, 3, failed.value.output) == "fail"
    attempt.machine.connection.push = ssh.push
    with pytest.raises(work.RuleFailed) as failed:  # there it is another matter
        attempt._retry(lambda connection: connection.push(["/in"], 1e9))
    assert watch.next_action("failed", 1, 3, failed.value.output) == "prune"


@needs_rsync
def test_more_than_the_job_requests_does_not_come_home(there, tmp_path, monkeypatch):
    """A disk of 40 GB and the margin: a file of a terabyte has an end, but not one to wait for."""
    make_attempt, workdir = there
    monkeypatch.setenv("MACHINE_RATE", "20000")
    (workdir / "model").touch()
    os.truncate(workdir / "model", 10**12)
    attempt = make_attempt(lambda now: exit(now, model="0" * 64), outputs=["model"])
    attempt.most = 10e6
    with pytest.raises(rental.Lost, match="0.01 GB are allowed"):
        attempt.run()
    assert not (tmp_path / "model").exists() and not list(tmp_path.rglob("*.arrivals"))


# ---- links ---------------------------------------------------------------------------------------


@pytest.fixture
def there(make, tmp_path, local_machine):
    """Makes an attempt whose files travel for true; the working directory on the machine."""
    root, ssh = local_machine
    workdir = Path(f"{root}{tmp_path}")
    workdir.mkdir(parents=True)

    def attempt(told, **facts):
        made, connection = make(told, **facts)
        connection.push, connection.pull = ssh.push, ssh.pull
        connection.pull_state = ssh.pull_state
        return made

    return attempt, workdir


@needs_rsync
def test_no_link_comes_home_from_a_machine(there, tmp_path):
    """The next push would send what it leads to, such as an ssh key, to another machine."""
    make_attempt, workdir = there
    (tmp_path / "secret").write_text("a key")
    (workdir / "model/.hidden").mkdir(parents=True)
    (workdir / "model/weights").write_text("w")
    (workdir / "model/.hidden/link").symlink_to(tmp_path / "secret")
    (workdir / "model/folder").symlink_to(tmp_path)
    (workdir / "job.log").symlink_to(tmp_path / "secret")
    files = {"model/weights": onboard.sha256(str(workdir / "model/weights"))}
    make_attempt(lambda now: exit(now, **files), outputs=["model"], extras=["job.log"]).run()
    assert (tmp_path / "model/weights").read_text() == "w"
    assert not [path for path in (tmp_path / "model").rglob("*") if path.is_symlink()]
    assert not (tmp_path / "job.log").is_symlink()


def test_a_link_in_the_place_of_an_output_is_named_with_what_to_do(make):
    ended = {"code": 0, "seconds": 1.0, "files": {}, "missing": ["a", "b"], "links": ["b", "d/e"]}
    attempt, _ = make(lambda now: {"exit": ended}, outputs=["a", "b", "d"])
    with pytest.raises(work.RuleFailed) as failed:
        attempt.run()
    assert str(failed.value) == (
        "did not make a, b; links stay on the machine (b): let the rule write copies"
    )


def test_a_message_names_only_so_many_files(make):
    """A machine may name as many as it likes."""
    ended = {"code": 0, "seconds": 1.0, "files": {}, "missing": ["x" * 100] * 10_000, "links": []}
    attempt, _ = make(lambda now: {"exit": ended})
    with pytest.raises(work.RuleFailed, match=r"^did not make xxx.* \.\.\.$") as failed:
        attempt.run()
    assert len(str(failed.value)) < 600


@needs_rsync
def test_no_link_comes_home_in_a_state(there, tmp_path):
    make_attempt, workdir = there
    (workdir / "state.home").mkdir()
    (workdir / "state.home/newest").symlink_to(tmp_path)
    (workdir / "state.home/step").write_text("3")
    attempt = make_attempt(exit, states=["state"])
    attempt.machine.connection.parts = ["newest", "step"]
    attempt.run()
    assert (tmp_path / "state/step").read_text() == "3"
    assert not (tmp_path / "state/newest").is_symlink()


@needs_rsync
def test_the_log_of_a_job_that_failed_controls_no_terminal(there, tmp_path):
    """Snakemake prints it with --show-failed-logs. What is no text is not printed."""
    make_attempt, workdir = there
    (workdir / "a.log").write_bytes(b"1 %\r2 %\n\x1b]0;title\x07 \xc2\x9b1m \xe2\x98\x83\t.\n")
    (workdir / "b.log").write_bytes(b"\xff\xfe")
    failed = {"code": 1, "seconds": 1.0, "files": {}, "missing": [], "links": []}
    attempt = make_attempt(lambda now: {"exit": failed}, extras=["a.log", "b.log"])
    with pytest.raises(work.RuleFailed):
        attempt.run()
    shown = "1 %\n2 %\n\\x1b]0;title\\x07 \\x9b1m \u2603\t.\n"
    assert (tmp_path / "a.log").read_text("utf-8") == shown
    assert (tmp_path / "b.log").read_bytes() == b"\xff\xfe"
    assert sorted(path.name for path in tmp_path.glob("*.log*")) == ["a-1.log", "a.log", "b.log"]


@needs_rsync
def test_a_file_that_the_job_has_not_recorded_stays_on_the_machine(there, tmp_path):
    """Hidden ones as well: what is not compared with a hash does not come home."""
    make_attempt, workdir = there
    (workdir / "model").mkdir()
    for name in ("weights", ".hidden", "more"):
        (workdir / "model" / name).write_text(name)
    files = {"model/weights": onboard.sha256(str(workdir / "model/weights"))}
    make_attempt(lambda now: exit(now, **files), outputs=["model"]).run()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"]


@needs_rsync
def test_a_damaged_file_never_takes_the_place_of_a_result(there, tmp_path):
    make_attempt, workdir = there
    (workdir / "model").write_text("damaged")
    (tmp_path / "model").write_text("the result of an earlier run")
    attempt = make_attempt(lambda now: exit(now, model="0" * 64), outputs=["model"])
    with pytest.raises(rental.Lost, match="model was damaged"):
        attempt.run()
    assert (tmp_path / "model").read_text() == "the result of an earlier run"
    assert not list(tmp_path.glob(".snakemake/vast/jobs/*"))


@needs_rsync
def test_an_output_that_did_not_arrive_fails_the_transfer(there):
    make_attempt, _ = there
    with pytest.raises(rental.Lost, match="model was not transferred"):
        make_attempt(lambda now: exit(now, model="0" * 64), outputs=["model"]).run()


@pytest.mark.parametrize("kind", ["inputs", "states"])
@pytest.mark.parametrize("name", ["model", "model/.cache", "model/folder/link"])
def test_what_a_link_leads_to_is_never_sent(there, tmp_path, kind, name):
    make_attempt, workdir = there
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("a key")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "secret")
    attempt = make_attempt(exit)
    setattr(attempt.task, kind, ["model"])
    attempt.states = [str(tmp_path / state) for state in attempt.task.states]
    with pytest.raises(work.RuleFailed, match=f"{name} is a link that leads out of it"):
        attempt.run()
    assert not list(workdir.rglob("key"))


@needs_rsync
def test_a_link_within_an_input_is_sent_as_a_link(there, tmp_path):
    make_attempt, workdir = there
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("w")
    (tmp_path / "model/newest").symlink_to("weights")
    attempt = make_attempt(exit)
    attempt.task.inputs = ["model"]
    attempt.run()
    assert (workdir / "model/newest").readlink() == Path("weights")
    assert (workdir / "model/weights").read_text() == "w"
