"""One attempt at a job: how often it is looked at, what ends it, what must be home. No network."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.driver import rental, watch, work
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.machine import onboard, transport
from vast_support.attempts import make_attempt
from vast_support.programs import needs_rsync

TURN = 1000.0  # when something happens to the job
OVER = 4000.0
DENSE, SPARSE = Limits().dense, Limits().sparse


@pytest.fixture
def make(tmp_path):
    return partial(make_attempt, tmp_path)


def exit(now, **files):
    done = {"code": 0, "seconds": 1.0, "files": files, "missing": []}
    return {"exit": done if now >= OVER else None}


# ---- looking -------------------------------------------------------------------------------------


def pauses(connection, since, until):
    looks = [t for t in connection.looks if since <= t < until]
    return {round(b - a, 3) for a, b in zip(looks, looks[1:], strict=False)}


ALARMS = {
    "a traceback": lambda now: {"output": "Traceback (most recent call last):\n"},
    "an idle GPU": lambda now: {"gpu": 0},
    "no step": lambda now: {"output": ""},
    "nothing": lambda now: {},
}


@pytest.mark.parametrize("alarm", ALARMS)
def test_looks_are_dense_at_first_then_sparse_and_dense_on_alarm(make, alarm):
    def told(now):
        return (ALARMS[alarm](now) if now >= TURN else {}) | exit(now)

    attempt, connection = make(told)
    attempt.run()
    quiet = Limits().stall / 4 if alarm == "no step" else 0.0
    assert max(pauses(connection, 0.0, Limits().early)) <= DENSE
    assert pauses(connection, Limits().early + SPARSE, TURN) == {SPARSE}
    later = pauses(connection, TURN + quiet + SPARSE, OVER)
    assert later == {SPARSE if alarm == "nothing" else DENSE}


def test_it_is_calm_again_when_the_alarm_is_over(make):
    attempt, connection = make(lambda now: {"gpu": 0 if TURN <= now < 2000 else 90} | exit(now))
    attempt.run()
    assert pauses(connection, 2000 + SPARSE, OVER) == {SPARSE}


def test_much_output_is_read_without_a_pause(make):
    """A job that has ended must not hold its machine until all it has said is read, bit by bit."""
    left = [100]

    def told(now):
        left[0] -= now >= OVER
        if now < OVER or left[0] < 0:
            return exit(now)
        return exit(now) | {"output": "x" * onboard.CHUNK}

    attempt, connection = make(told)
    attempt.run()
    assert left[0] < 0 and attempt.clock.now() <= OVER + 2 * SPARSE


def test_of_endless_output_the_first_part_and_the_end_are_kept(make):
    """The job goes on: what it prints must not fill this computer's disk, nor hold its machine."""
    most = 4 << 20
    total = 5 * most

    def told(now):
        return exit(now) | {"output": "x" * onboard.CHUNK, "size": total}

    attempt, connection = make(told)
    attempt.limits = replace(attempt.limits, output=most)
    attempt.run()
    assert attempt.clock.now() <= OVER + 2 * SPARSE
    log = attempt.log_file.read_bytes()
    assert len(log) < most + 100 and log.endswith(b"see --vast-output-mib\n")
    assert connection.offsets[-1] >= total - onboard.CHUNK and len(attempt.tail) == 8000


ODD = {"output": 5, "size": "1", "alive": None, "gpu": "90", "mark": [], "exit": []}
DONE = {"code": 0, "seconds": 1.0, "files": {}, "missing": []}
ODD_EXITS = {"code": "0", "seconds": None, "files": {"a": 1}, "missing": [[]]}


@pytest.mark.parametrize(
    "answer",
    [
        *({key: value} for key, value in ODD.items()),
        *({"exit": DONE | {key: value}} for key, value in ODD_EXITS.items()),
        {"exit": DONE | {"seconds": float("nan")}},
    ],
    ids=str,
)
def test_a_machine_that_answers_nonsense_is_lost_and_its_job_is_not(make, answer):
    attempt, _ = make(lambda now: answer)
    with pytest.raises(rental.Lost, match="silent"):
        attempt.run()


def test_a_machine_that_answers_without_end_is_lost_at_once(make):
    attempt, connection = make(exit)

    def flood(*_):
        raise transport.TooMuch("m: it answered more than 16 MiB")

    connection.ask = flood
    with pytest.raises(rental.Lost, match="transfer: m: it answered more than 16 MiB"):
        attempt.run()


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "why, told, when",
    [
        ("stalled", lambda now: {"output": "step\n" * (now < TURN), "gpu": 0}, TURN + 1800),
        ("overtime", lambda now: {}, 2500),
    ],
)
def test_a_stall_and_the_cap_of_the_run_time_end_the_job_with_its_state_home(make, why, told, when):
    attempt, connection = make(told, seconds=2500 if why == "overtime" else 1e6, states=["state"])
    with pytest.raises(rental.Lost, match=why):
        attempt.run()
    assert (
        connection.asked.count("end") == 1
        and connection.asked[-1] == "snapshot"
        and len(connection.copies) == 1
    )
    assert when <= connection.copies[0] <= when + 2 * SPARSE


def test_a_job_that_writes_no_line_but_uses_the_gpu_is_left_alone(make):
    attempt, connection = make(lambda now: {"output": ""} | exit(now))
    attempt.run()
    assert "end" not in connection.asked


# ---- states --------------------------------------------------------------------------------------


def test_a_state_comes_home_no_oftener_than_its_transfer_allows(make):
    """It takes 100 s: not every 600 s, but every ten times as long."""
    attempt, connection = make(lambda now: {"mark": str(now)} | exit(now), states=["state"])
    attempt.run()
    first, *others, last = connection.copies  # the last one is the job's end
    assert first <= 2 * 600 and len(others) >= 1 and last >= OVER
    assert all(b - a >= 1000 for a, b in zip([first, *others], others, strict=False))


def test_a_state_that_has_nothing_new_stays(make):
    attempt, connection = make(lambda now: {"mark": "same"} | exit(now), states=["state"])
    attempt.run()
    assert len(connection.copies) == 2  # once, and at the end


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
        attempt._retry(lambda connection: connection.push(["/in"]))
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


@needs_rsync
def test_no_link_comes_home_in_a_state(there, tmp_path):
    make_attempt, workdir = there
    (workdir / "state.home").mkdir()
    (workdir / "state.home/newest").symlink_to(tmp_path)
    (workdir / "state.home/step").write_text("3")
    make_attempt(exit, states=["state"]).run()
    assert (tmp_path / "state/step").read_text() == "3"
    assert not (tmp_path / "state/newest").is_symlink()


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
