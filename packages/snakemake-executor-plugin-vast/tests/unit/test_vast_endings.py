"""When an attempt ends: is its work home, and may its machine be destroyed? No network."""

import pytest
from snakemake_executor_plugin_vast.driver import rental, work
from snakemake_executor_plugin_vast.driver.states import Places
from snakemake_executor_plugin_vast.machine.transport import Unreachable
from vast_support.attempts import make_attempt

OVER = 4000.0
STATE = {"states": ["state/a"]}


def ended(code=0):
    """What the machine says of a job that ends at OVER."""
    done = {"code": code, "seconds": 1.0, "files": {}, "missing": [], "links": []}
    return lambda now: {"exit": done if now >= OVER else None}


@pytest.mark.parametrize("code", [0, 1])
def test_a_machine_is_held_from_the_start_of_a_job_until_its_state_is_home(tmp_path, code):
    attempt, connection = make_attempt(tmp_path, ended(code), **STATE)
    held, ask = [], connection.ask

    def watched(what, *rest):
        held.append(bool(attempt.keeper.held))
        return ask(what, *rest)

    connection.ask = watched
    if code:
        with pytest.raises(work.RuleFailed):
            attempt.run()
    else:
        attempt.run()
    assert held and all(held) and not attempt.keeper.held
    assert Places(tmp_path / "states.json").labels == ({"m"} if code else set())


def test_a_machine_without_a_state_is_never_held(tmp_path):
    attempt, _ = make_attempt(tmp_path, ended())
    attempt.keeper.hold = lambda label: pytest.fail("there is nothing to save")
    attempt.run()


@pytest.mark.parametrize("reached", [True, False])
def test_a_machine_whose_state_cannot_be_saved_at_the_end_of_a_run_is_held(tmp_path, reached):
    attempt, connection = make_attempt(tmp_path, ended(), **STATE)
    ask = connection.ask

    def cut(what, *rest):
        if what == "look":
            attempt.closing.set()
        if what == "snapshot" and not reached:
            raise Unreachable("m: broken pipe")
        return ask(what, *rest)

    connection.ask = cut
    with pytest.raises(rental.Closing):
        attempt.run()
    assert attempt.keeper.held == (set() if reached else {"m"})
