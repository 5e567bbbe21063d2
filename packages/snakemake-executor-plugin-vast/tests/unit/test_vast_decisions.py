"""What the executor decides: what to rent, what to pay, when to give up a job. No network."""

import math
import subprocess
from dataclasses import replace
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake_executor_plugin_vast.driver import watch
from snakemake_executor_plugin_vast.driver.watch import Limits, Observation
from snakemake_executor_plugin_vast.machine import deadman
from snakemake_executor_plugin_vast.market import selection
from snakemake_executor_plugin_vast.market.protocol import (
    Instance,
    Offer,
    Requirements,
    SearchRules,
)
from snakemake_executor_plugin_vast.money import ledger
from snakemake_executor_plugin_vast.settings import ENVIRONMENT, ExecutorSettings, setup_commands

OFFER = Offer(
    id=1, machine_id=7, gpu_name="RTX 4090", gpus=1, gpu_mem_mb=24564, mem_mb=64000,
    disk_gb=200, price=0.31, lowest_bid=0.15, storage_price=0.15, reliability=0.99,
)  # fmt: skip

offer_lists = st.lists(
    st.builds(
        replace,
        st.just(OFFER),
        id=st.integers(1, 30),
        machine_id=st.integers(1, 9),
        price=st.floats(0.05, 8),
        lowest_bid=st.floats(0, 8),
        gpu_mem_mb=st.sampled_from([12288, 24564, 81559]),
        disk_gb=st.floats(10, 500),
        gpus=st.sampled_from([1, 2, 8]),
    ),
    max_size=12,
)
any_requirements = st.builds(
    Requirements,
    gpus=st.sampled_from([1, 2]),
    gpu_mem_mb=st.sampled_from([0, 20000]),
    disk_gb=st.integers(10, 100),
    max_price=st.floats(0.1, 8),
    interruptible=st.booleans(),
)


# ---- offers --------------------------------------------------------------------------------------


@given(offer_lists, any_requirements, st.sets(st.integers(1, 30)), st.sets(st.integers(1, 9)))
def test_what_is_tried_fits_and_costs_no_more_than_the_cap(listed, requirements, used, bad):
    ranked = selection.rank(listed, requirements, SearchRules(), used, bad)
    for offer in ranked:
        assert offer in listed and offer.id not in used and offer.machine_id not in bad
        assert offer.gpus == requirements.gpus and offer.gpu_mem_mb >= requirements.gpu_mem_mb
        assert offer.disk_gb >= requirements.disk_gb
        assert selection.hourly(offer, requirements, SearchRules()) <= requirements.max_price
    prices = [selection.hourly(offer, requirements, SearchRules()) for offer in ranked]
    assert prices == pytest.approx(sorted(prices), abs=1e-4)


@given(offer_lists, any_requirements)
def test_a_bid_lies_between_the_lowest_one_and_the_cap(listed, requirements):
    requirements = replace(requirements, interruptible=True)
    for offer in selection.rank(listed, requirements, SearchRules(bid_factor=1.2)):
        price = selection.bid(offer, requirements, SearchRules(bid_factor=1.2))
        assert offer.lowest_bid <= price + 1e-4 and price <= requirements.max_price + 1e-4


def test_resources_become_a_wish():
    requirements = selection.requirements_of(
        {"gpu": 2, "gpu_model": "H100_SXM|A100_SXM4", "gpu_mem_mb": 80000, "mem_mb": 64000,
         "disk_mb": 120500, "runtime": 90},
        Requirements(disk_gb=40),
    )  # fmt: skip
    assert requirements == Requirements(2, ("H100_SXM", "A100_SXM4"), 80000, 64000, 121, 5400.0)


def test_resources_that_are_not_known_yet_count_as_nothing():
    assert (
        selection.requirements_of({"gpu": 1, "mem_mb": "<TBD>", "runtime": None}, Requirements())
        == Requirements()
    )


def instance(**facts):
    return Instance(5, "x", "running", "", 7, **{"price": 0.2, "interruptible": True} | facts)


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"interruptible": False}, "is on demand"),
        ({"price": 0.207}, "its offer said $0.200"),
        ({"price": 0.205}, ""),
        ({"price": math.nan}, "its offer said $0.200"),
        ({}, ""),
    ],
)
def test_the_contract_is_checked_after_the_create(facts, words):
    requirements = Requirements(interruptible=True, max_price=1.0)
    found = selection.contract_error(instance(**facts), requirements, 0.2)
    assert words in found and bool(found) == bool(words)


@given(any_requirements)
def test_a_machine_rented_for_a_wish_serves_it(requirements):
    offer = replace(OFFER, gpus=requirements.gpus, gpu_mem_mb=81559)
    assert selection.serves(offer, requirements.disk_gb, requirements.interruptible, requirements)
    assert not selection.serves(
        offer, requirements.disk_gb - 1, requirements.interruptible, requirements
    )


def test_what_needs_a_steady_machine_never_gets_an_interruptible_one():
    assert not selection.serves(OFFER, 40, True, Requirements())
    assert selection.serves(OFFER, 40, False, Requirements(interruptible=True))


# ---- the ledger ----------------------------------------------------------------------------------


def intend(label, time, dph=1.0, seconds=3600.0, machine=1, run="r"):
    return {"what": "intend", "run": run, "label": label, "offer": 1, "machine": machine,
            "dph": dph, "seconds": seconds, "time": time}  # fmt: skip


def end(label, time, dollars, seconds=0.0, why="idle"):
    return {"what": "end", "run": "r", "label": label, "dollars": dollars, "seconds": seconds,
            "why": why, "time": time}  # fmt: skip


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(60, 1e5), st.booleans()), max_size=8))
def test_spent_and_committed_cover_every_machine(machines):
    lines = []
    for n, (dph, seconds, over) in enumerate(machines):
        lines.append(intend(f"m{n}", 0.0, dph, seconds))
        if over:
            lines.append(end(f"m{n}", 30.0, dph * 30 / 3600, 30.0))
    money = ledger.account(lines, 30.0)
    assert money.spent == pytest.approx(sum(m[0] for m in machines) * 30 / 3600)
    promised = sum(dph * (seconds - 30) / 3600 for dph, seconds, over in machines if not over)
    assert money.committed == pytest.approx(promised)


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0.01, 10), st.floats(0.01, 30))
def test_nothing_is_rented_over_the_budget(spent, committed, estimate, budget):
    money = ledger.Account(spent, committed, 0.0)
    allowed = money.allows(estimate, budget)
    assert allowed == (spent + committed + estimate <= budget + 1e-9)
    assert money.allows(estimate, None)


def test_a_promise_replaces_the_one_before():
    lines = [intend("a", 0.0, 1.0, 7200.0)]
    promise = {"what": "promise", "run": "r", "label": "a", "time": 600.0, "lived": 600.0}
    assert ledger.account(lines, 600.0).committed == pytest.approx(6600 / 3600)
    assert ledger.account([*lines, promise | {"seconds": 0}], 600.0).committed == 0.0
    more = ledger.account([*lines, promise | {"seconds": 900}], 600.0)
    assert more.committed == pytest.approx(900 / 3600)


def test_what_has_not_ended_is_open_even_when_its_create_was_never_answered():
    lines = [intend("a", 0.0), intend("b", 1.0), end("a", 2.0, 0.1)]
    assert [rental.label for rental in ledger.open_rentals(lines)] == ["b"]


def test_machines_that_failed_are_left_alone_for_a_day():
    lines = [intend(n, 0.0, machine=m) for m, n in enumerate("abcd", 1)]
    lines += [end("a", 10.0, 0, why="boot: stuck"), end("b", 10.0, 0, why="idle")]
    lines += [end("c", 10.0, 0, why="silent"), end("d", 10.0, 0, why="outbid")]
    assert ledger.bad_machines(lines, 20.0) == {1, 3}
    assert ledger.bad_machines(lines, 10.0 + ledger.AVOIDED) == set()


def test_lines_reach_the_disk_whole_and_a_torn_last_one_is_left_out(tmp_path):
    book = ledger.Ledger(tmp_path / "deep/ledger.jsonl", "r", lambda: 5.0)
    book.write("rent", label="a", instance=1, dph=1.0)
    with open(book.path, "a") as file:
        file.write('{"what": "end", "lab')
    with pytest.warns(UserWarning, match=r"ledger\.jsonl, line 2: cut off, left out"):
        assert [line["what"] for line in ledger.read(book.path)] == ["rent"]
    book.write("intend", label="b", machine=1, dph=1.0, seconds=60.0)
    assert [line["what"] for line in ledger.read(book.path)] == ["rent", "intend"]
    assert ledger.read(tmp_path / "none") == []
    book.path.write_text(book.path.read_text().strip())  # as some editors leave a file
    book.write("end", label="b", seconds=1.0, dollars=2.0)
    assert [line["what"] for line in ledger.read(book.path)] == ["rent", "intend", "end"]


@pytest.mark.parametrize(
    "damage", [b'{"what": "end", "lab\n', b"\xff\n", b"3\n", b"{}\n", b'{"what": "end"}\n']
)
def test_a_damaged_line_is_an_error_wherever_else_it_stands(tmp_path, damage):
    """Money is reckoned from it: what cannot be read must not count as nothing."""
    book = ledger.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 5.0)
    book.write("rent", label="a", instance=1, dph=1.0)
    with open(book.path, "ab") as file:
        file.write(damage)
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    with pytest.raises(ValueError, match=r"ledger\.jsonl, line 2"):
        ledger.read(book.path)


def test_a_stopped_machine_costs_its_disk_until_it_ends():
    """150 GB are 75 cents a day."""
    stop = {"what": "stop", "run": "r", "label": "a", "instance": 5, "time": 3600.0}
    lines = [intend("a", 0.0, 2.0), stop | {"seconds": 3600.0, "dollars": 2.0, "dph": 0.75 / 24}]
    money = ledger.account(lines, 3600.0 + 2 * 86400)
    assert money.spent == pytest.approx(2.0 + 1.5) and money.committed == 0.0
    said = ledger.summary(lines, 3600.0)
    assert said.endswith("and $0.75 a day for the disks of 1 stopped machines")
    lines.append(end("a", 9e5, 4.5, 3700.0))
    assert ledger.account(lines, 1e6).spent == 4.5 and "stopped" not in ledger.summary(lines, 1e6)


def test_the_summary_tells_hours_dollars_and_waste():
    lines = [intend("a", 0.0, 2.0), end("a", 3600.0, 2.0, 3600.0)]
    lines.append({"what": "attempt", "dph": 2.0, "wasted": 900.0, "run": "r", "time": 1.0})
    said = ledger.summary(lines, 3600.0)
    assert said == "1 machines, 1.00 h, 1 attempts, $2.00 ($0.50 of it for lost work)"


# ---- watching ------------------------------------------------------------------------------------

LIMITS = Limits()
CALM = Observation(now=5000, started=0, contact=4999, progress=4990, cap=9000, gpu_idle=False)


def test_a_job_that_goes_on_is_left_alone_and_looked_at_rarely():
    assert watch.failure_reason(CALM, LIMITS) is None
    assert watch.seconds_to_next_look(CALM, LIMITS) == LIMITS.sparse


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"listed": False}, None),  # it answers: the list is late
        ({"listed": False, "contact": 4900}, "gone"),
        ({"status": "stopped"}, "outbid"),
        ({"status": "offline", "status_since": 4600, "contact": 4600}, "offline"),
        ({"status": "offline", "status_since": 4600}, None),  # it answers: it is not lost
        ({"status": "offline", "status_since": 4990, "contact": 4600}, None),
        ({"contact": 5000 - LIMITS.silent - 1}, "silent"),
        ({"cap": 4000}, "overtime"),
        ({"progress": 5000 - LIMITS.stall - 1, "gpu_idle": True}, "stalled"),
        ({"progress": 5000 - LIMITS.stall - 1, "gpu_idle": None}, "stalled"),
        ({"progress": 5000 - LIMITS.stall - 1}, None),  # the GPU works
        ({"status": "starting"}, None),
    ],
)
def test_verdicts(change, expected):
    assert watch.failure_reason(replace(CALM, **change), LIMITS) == expected


@pytest.mark.parametrize("change", [{"alert": True}, {"gpu_idle": True}, {"progress": 4000}])
def test_alarm_brings_dense_looks(change):
    assert watch.seconds_to_next_look(replace(CALM, **change), LIMITS) <= LIMITS.dense


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from([True, False]))
def test_every_wait_is_bounded_and_so_is_patience(age, quiet, silent, idle):
    observation = replace(
        CALM, now=1e6, started=1e6 - age, progress=1e6 - quiet, contact=1e6 - silent
    )
    observation = replace(observation, cap=math.inf, gpu_idle=idle)
    assert 0 < watch.seconds_to_next_look(observation, LIMITS) <= LIMITS.sparse
    if silent > LIMITS.silent or (idle and quiet > LIMITS.stall):
        assert watch.failure_reason(observation, LIMITS)


def test_short_jobs_are_not_kept_waiting():
    for age in (1, 10, 50):
        young = replace(CALM, now=age, started=0, contact=age, progress=age)
        assert watch.seconds_to_next_look(young, LIMITS) <= max(0.5, age / 20)


@pytest.mark.parametrize(
    "why, times, output, expected",
    [
        ("outbid", 1, "", "again"),
        ("silent", 3, "", "again"),
        ("silent", 4, "", "fail"),
        ("stalled", 1, "", "again"),
        ("stalled", 2, "", "fail"),
        ("overtime", 1, "", "fail"),
        ("failed", 1, "ValueError: no", "fail"),
        ("failed", 1, "OSError: [Errno 28] No space left on device", "prune"),
        ("failed", 2, "No space left on device", "bigger"),
        ("failed", 3, "No space left on device", "fail"),
    ],
)
def test_remedies(why, times, output, expected):
    assert watch.next_action(why, times, 3, output) == expected


@given(st.floats(1, 1e4), st.floats(0, 1e4), st.floats(1, 20))
def test_states_take_at_most_their_share_of_the_time(every, took, share):
    due = max(every, share * took)
    assert watch.save_due(1000 + 1.01 * due, 1000, took, every, share)
    assert not watch.save_due(1000 + 0.99 * due, 1000, took, every, share)


# ---- the dead-man switch -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quiet, age, keep, stopped_for, expected",
    [
        (10, 100, True, None, None),
        (31, 100, True, None, "stop"),
        (31, 100, False, None, "destroy"),
        (31, 100, True, 10, "stop"),
        (31, 100, True, 501, "destroy"),
        (0, 1001, True, None, "destroy"),
    ],
)
def test_a_silent_driver_ends_the_machine(quiet, age, keep, stopped_for, expected):
    facts = {"silent": 30, "longest": 1000, "later": 500}
    assert deadman.decide(quiet, age, keep=keep, stopped_for=stopped_for, **facts) == expected


def test_a_machine_gets_the_software_that_the_user_the_hook_or_the_workflow_names():
    [default] = setup_commands(ExecutorSettings())
    assert f"snakemake=={version('snakemake')}" in default
    assert setup_commands(ExecutorSettings(), "of the hook") == ("of the hook",)
    chosen = ExecutorSettings(setup="make it", activate=". it", packages="s3fs==1 other")
    install = ". it && python -m pip install -q s3fs==1 other"
    assert setup_commands(chosen, "of the hook") == ("make it", install)


@pytest.mark.parametrize("files", [(), ("requirements.txt",), ("workflow/requirements.txt",)])
def test_the_default_setup_installs_snakemake_and_what_the_workflow_requires(tmp_path, files):
    """Run on a computer whose Python only writes down its arguments."""
    python = tmp_path / "bin/python3"
    python.parent.mkdir()
    python.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/told
for last; do :; done
if [ "$2" = venv ]; then mkdir -p $last/bin && cp "$0" $last/bin/python; fi
""")
    python.chmod(0o755)
    (tmp_path / "workflow").mkdir()
    for file in files:
        (tmp_path / file).touch()
    [command] = setup_commands(ExecutorSettings())
    command = command.replace(ENVIRONMENT, str(tmp_path / "env"))
    environment = {"PATH": f"{python.parent}:/bin"}
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path, env=environment)
    told = (tmp_path / "told").read_text()
    assert told.startswith("-m venv")
    installed = [line.partition("pip install -q ")[2] for line in told.splitlines()]
    expected = [f"snakemake=={version('snakemake')}", *(f"-r {file}" for file in files)]
    assert [packages for packages in installed if packages] == expected
