"""One attempt at a job: how often it is looked at, and what ends it. No network."""

from functools import partial

import pytest
from snakemake_executor_plugin_vast.driver import rental, work
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.machine import onboard, transport
from vast_support.attempts import OVER, exit, make_attempt

TURN = 1000.0  # when something happens to the job
DENSE, SPARSE = Limits().dense, Limits().sparse


@pytest.fixture
def make(tmp_path):
    return partial(make_attempt, tmp_path)


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
    attempt.output.most = most
    attempt.run()
    assert attempt.clock.now() <= OVER + 2 * SPARSE
    log = attempt.log_file.read_bytes()
    assert len(log) < most + 100 and log.endswith(b"see --vast-output-mib\n")
    assert connection.offsets[-1] >= total - onboard.CHUNK and len(attempt.tail) == 8000


def test_the_end_of_long_output_is_read_after_the_job_as_well(make):
    """There stands why the job has failed."""
    total = 9 << 20
    text = b"x" * (total - 6) + b"error\n"

    attempt, connection = make(lambda now: {})

    def ask(what, folder, request, timeout=None):
        seen = text[request["offset"] :][: onboard.CHUNK].decode() if what == "look" else ""
        ended = {"code": 1, "seconds": 1.0, "files": {}, "missing": [], "links": []}
        facts = {"gpu": 90, "mark": None, "alive": False, "size": total, "exit": ended}
        return facts | {"output": seen}

    connection.ask = ask
    attempt.output.most = 4 << 20
    with pytest.raises(work.RuleFailed) as failed:
        attempt.run()
    assert failed.value.output.endswith("error\n")


def test_the_log_of_an_attempt_controls_no_terminal(make):
    """Snakemake prints it with --show-failed-logs. Half a character may come in one answer."""
    parts = ["a\x1b]0;title\x07 10%\r 20%\r\n", "\xc2", "\x9b1m \xe2\x98", "\x83\n"]

    def told(now):
        return {"output": parts.pop(0) if parts else ""} | exit(now)

    attempt, _ = make(told)
    attempt.run()
    assert attempt.log_file.read_text("utf-8") == (
        "a\\x1b]0;title\\x07 10%\n 20%\n\\x9b1m \u2603\n"
    )


ODD = {"output": "\u2603", "size": "1", "alive": None, "gpu": "90", "mark": [], "exit": []}
DONE = {"code": 0, "seconds": 1.0, "files": {}, "missing": [], "links": []}
ODD_EXITS = {"code": "0", "seconds": None, "files": {"a": 1}, "missing": [[]], "links": [1]}


@pytest.mark.parametrize(
    "answer",
    [
        *({key: value} for key, value in ODD.items()),
        {"output": 5},
        *({"exit": DONE | {key: value}} for key, value in ODD_EXITS.items()),
        {"exit": DONE | {"seconds": float("nan")}},
    ],
    ids=str,
)
def test_a_machine_that_answers_nonsense_is_lost_and_its_job_is_not(make, answer):
    attempt, _ = make(lambda now: answer)
    with pytest.raises(rental.Lost, match="silent"):
        attempt.run()


def test_the_silence_of_a_machine_counts_in_full_while_this_computer_is_awake(make):
    """With the pauses between two looks, and with the time that each look waits for an answer."""
    attempt, connection = make(lambda now: {})
    ask = connection.ask

    def hang(what, *more):
        if attempt.clock.now() < TURN:
            return ask(what, *more)
        attempt.clock.wait(connection.timeout)
        raise transport.Unreachable("m: no answer within 30 s")

    connection.ask = hang
    with pytest.raises(rental.Lost, match="silent"):
        attempt.run()
    silence = attempt.clock.now() - connection.looks[-1]
    assert Limits().silent < silence <= Limits().silent + connection.timeout + DENSE


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


@pytest.mark.parametrize("answer", [{}, {"there": 1}, {"there": True}, {"there": True, "parts": 1}])
def test_a_state_of_which_a_machine_tells_nonsense_is_not_saved_and_costs_no_job(make, answer):
    """Only its end needs the state at home; without it the machine is lost, and the job is not."""
    attempt, connection = make(lambda now: {"mark": "1"} | exit(now), states=["state"])
    ask = connection.ask
    connection.ask = lambda what, *more: ask(what, *more) if what != "snapshot" else answer
    with pytest.raises(rental.Lost, match="transfer: the machine's report has"):
        attempt.run()
    assert not connection.copies
    assert "the state was not saved: the machine's report has" in attempt.log_file.read_text()


def test_a_machine_that_sends_too_much_as_a_state_is_lost_at_once(make):
    """It could send that again every minute, for as long as the job may take."""
    attempt, connection = make(lambda now: {"mark": "1"} | exit(now), states=["state"])

    def flood(*_):
        connection.copies.append(attempt.clock.now())
        raise transport.TooMuch("m: it sent 46 GB, 45 GB are allowed")

    connection.pull_state = flood
    with pytest.raises(rental.Lost, match="transfer: m: it sent 46 GB"):
        attempt.run()
    assert len(connection.copies) == 1


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_state_that_takes_long_to_come_home_is_no_silence_of_its_machine(make, cut_off):
    """Nobody asks the machine meanwhile. It gets the time to answer that it always has."""
    attempt, connection = make(lambda now: {"mark": "1"} | exit(now), states=["state"])

    def slow(*_):
        connection.copies.append(attempt.clock.now())
        attempt.clock.wait(2 * Limits().silent)
        if cut_off and len(connection.copies) == 1:
            raise transport.Unreachable("m: broken pipe")

    connection.pull_state = slow
    attempt.run()
    assert connection.copies[0] < OVER <= connection.copies[-1]


def test_the_state_of_a_job_that_was_killed_is_asked_for_more_than_once(make):
    """Nothing else has what the job made since the last save, and the machine is given up."""
    attempt, connection = make(lambda now: {"alive": now < TURN}, states=["state"])
    ask, cuts = connection.ask, [transport.Unreachable("m: broken pipe")]

    def cut(what, *more):
        if what == "snapshot" and cuts:
            raise cuts.pop()
        return ask(what, *more)

    connection.ask = cut
    with pytest.raises(rental.Lost, match="killed"):
        attempt.run()
    assert len(connection.copies) == 1
