"""The dead-man switch is seen to be armed, before the first job and while one runs."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast.driver import rental, switch
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.machine import armed, deadman
from snakemake_executor_plugin_vast.machine.transport import Failed, Unreachable
from snakemake_executor_plugin_vast.market.vast import Vast
from vast_support.attempts import make_attempt
from vast_support.stand_ins import ARMED, ManualClock

DISARMED = '{"armed": false, "why": "its process does not run"}'
UNKNOWN = '{"armed": null, "why": "the market does not answer"}'


# ---- on the machine ------------------------------------------------------------------------------


@pytest.fixture
def machine(fake, client, tmp_path):
    """A folder with the switch of a rented machine; it is started with changed variables."""
    number = client.rent()
    fake.advance(20)
    (tmp_path / "machine_control.py").write_text(Vast(fake.key, fake.url).machine_control())
    (tmp_path / "deadman.py").write_bytes(Path(deadman.__file__).read_bytes())
    own = {"CONTAINER_ID": str(number), "CONTAINER_API_KEY": fake.instance(number).key}
    started = []

    def start(changes):
        variables = {k: v for k, v in (own | changes).items() if v is not None}
        command = [sys.executable, "deadman.py", ".", "900", "1", "900", "900", "60"]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=variables))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def checked(folder):
    """What the module says as it is called by ssh, without the variables of the container."""
    command = [sys.executable, armed.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, check=True, env={})
    return json.loads(done.stdout)


def test_a_switch_that_runs_with_its_key_is_armed(machine, fake, tmp_path):
    machine({})
    assert checked(tmp_path) == {"armed": True, "why": ""}
    [request] = fake.calls("state")
    assert request.status == 200 and request.body == {"state": "running"}
    [instance] = fake.instances
    assert instance.actual_status == "running", "the call changes nothing"


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"CONTAINER_API_KEY": "another key"}, "the market answers 404"),
        ({"CONTAINER_API_KEY": None}, "no variable 'CONTAINER_API_KEY'"),
        ({"CONTAINER_ID": None}, "no variable 'CONTAINER_ID'"),
    ],
)
def test_a_switch_without_a_key_that_is_accepted_is_not_armed(machine, tmp_path, changes, why):
    machine(changes)
    answer = checked(tmp_path)
    assert answer["armed"] is False and why in answer["why"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, None])
def test_a_switch_that_does_not_run_is_not_armed(machine, tmp_path, number):
    if number:
        process = machine({})
        process.send_signal(number)
        os.waitpid(process.pid, os.WUNTRACED)
    assert checked(tmp_path) == {"armed": False, "why": "its process does not run"}


def test_the_switch_of_another_folder_does_not_count(machine, tmp_path):
    machine({})
    (tmp_path / "other").mkdir()
    assert checked(tmp_path / "other")["armed"] is False


def test_a_market_that_is_down_says_nothing_of_the_switch(machine, fake, tmp_path):
    machine({})
    fake.fault("state", times=None, status=503)
    assert checked(tmp_path)["armed"] is None


# ---- before the first job ------------------------------------------------------------------------


class Link:
    """A machine that gives these answers in turn, the last for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def command(self, text, data="", timeout=None):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_machine_is_used_once_its_switch_is_armed():
    link, clock = Link(DISARMED, UNKNOWN, Unreachable("x"), ARMED), ManualClock()
    switch.await_armed(link, "/jobs", clock, threading.Event())
    assert clock.now() == 3 * switch.EVERY


ODD = ["", "[]", "{}", '{"armed": 1e999, "why": 5}', "[" * 99999, Failed("exit 1: no python3")]


@pytest.mark.parametrize("answer", [DISARMED, UNKNOWN, *ODD], ids=lambda a: str(a)[:20])
def test_a_machine_whose_switch_is_not_seen_to_be_armed_gets_no_job(answer):
    clock = ManualClock()
    with pytest.raises(rental.Lost, match="disarmed: the dead-man switch: "):
        switch.await_armed(Link(answer), "/jobs", clock, threading.Event())
    assert clock.now() <= switch.FIRST + 2 * switch.EVERY


# ---- signs of life ------------------------------------------------------------------------------


def test_signs_of_life_go_on_whatever_error_one_of_them_meets():
    """Without them the switch would stop the machine in the middle of a job."""
    touched, waits, over = [], [], threading.Event()

    def touch():
        touched.append("now")
        if len(touched) == 3:
            over.set()
        raise OSError(24, "Too many open files")

    clock = SimpleNamespace(real=lambda seconds: waits.append(seconds) or 0.0)
    switch.keep_lease(touch, clock, over)
    assert len(touched) == 3 and waits == [switch.LEASE] * 3


# ---- while a job runs ----------------------------------------------------------------------------

OVER = 4000.0
EVERY = Limits().armed


def running(now):
    done = {"code": 0, "seconds": 1.0, "files": {}, "missing": [], "links": []}
    return {"exit": done if now >= OVER else None}


def test_a_machine_whose_switch_ends_is_left_with_its_state(tmp_path):
    attempt, connection = make_attempt(tmp_path, running, states=["state/a"])
    connection.armed = lambda now: ARMED if now < 1000 else DISARMED
    with pytest.raises(rental.Lost, match="its process does not run") as lost:
        attempt.run()
    assert lost.value.why == "disarmed" and "end" in connection.asked and connection.copies
    assert attempt.clock.now() < 1000 + 3 * EVERY and not attempt.keeper.held


@pytest.mark.parametrize("answer", [UNKNOWN, ARMED, "nonsense"])
def test_a_job_goes_on_while_nothing_is_known_against_the_switch(tmp_path, answer):
    """One answer against it may be a mistake of the market, if the next one is not."""
    attempt, connection = make_attempt(tmp_path, running)
    connection.armed = lambda now: DISARMED if len(connection.checks) % 2 else answer
    attempt.run()
    assert len(connection.checks) > OVER / EVERY / 2 > 4
