"""What the Vast executor decides: what to rent, what may be paid, when a job is given up."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.lineage import ledger_attempts
from ablation.provenance import StaleInput
from snakemake_executor_plugin_vast import deadman, ledger, offers, watch
from snakemake_executor_plugin_vast.api import Instance, Offer
from snakemake_executor_plugin_vast.offers import Market, Wish
from snakemake_executor_plugin_vast.settings import SETUP, ExecutorSettings, setup_of
from snakemake_executor_plugin_vast.watch import Limits, Sight
from snakemake_report_plugin_rocrate.runs import spent

OFFER = Offer(
    id=1, machine_id=7, gpu_name="RTX 4090", num_gpus=1, gpu_ram=24564, cpu_ram=64000,
    disk_space=200, dph_total=0.31, min_bid=0.15, storage_cost=0.15, reliability=0.99,
)  # fmt: skip

offer_lists = st.lists(
    st.builds(
        replace,
        st.just(OFFER),
        id=st.integers(1, 30),
        machine_id=st.integers(1, 9),
        dph_total=st.floats(0.05, 8),
        min_bid=st.floats(0, 8),
        gpu_ram=st.sampled_from([12288, 24564, 81559]),
        disk_space=st.floats(10, 500),
        num_gpus=st.sampled_from([1, 2, 8]),
    ),
    max_size=12,
)
wishes = st.builds(
    Wish,
    gpus=st.sampled_from([1, 2]),
    gpu_mem_mb=st.sampled_from([0, 20000]),
    disk_gb=st.integers(10, 100),
    max_price=st.floats(0.1, 8),
    interruptible=st.booleans(),
)


# ---- offers --------------------------------------------------------------------------------------


@given(offer_lists, wishes, st.sets(st.integers(1, 30)), st.sets(st.integers(1, 9)))
def test_what_is_tried_fits_and_costs_no_more_than_the_cap(listed, wish, used, bad):
    ranked = offers.rank(listed, wish, Market(), used, bad)
    for offer in ranked:
        assert offer in listed and offer.id not in used and offer.machine_id not in bad
        assert offer.num_gpus == wish.gpus and offer.gpu_ram >= wish.gpu_mem_mb
        assert offer.disk_space >= wish.disk_gb
        assert offers.hourly(offer, wish, Market()) <= wish.max_price
    prices = [offers.hourly(offer, wish, Market()) for offer in ranked]
    assert prices == pytest.approx(sorted(prices), abs=1e-4)


@given(offer_lists, wishes)
def test_a_bid_lies_between_the_lowest_one_and_the_cap(listed, wish):
    wish = replace(wish, interruptible=True)
    for offer in offers.rank(listed, wish, Market(bid_factor=1.2)):
        price = offers.bid(offer, wish, Market(bid_factor=1.2))
        assert offer.min_bid <= price + 1e-4 and price <= wish.max_price + 1e-4


def test_a_bid_always_has_its_price_in_the_create():
    wish = Wish(interruptible=True)
    body = offers.request(wish, "image", "l", "true", offers.bid(OFFER, wish, Market()))
    assert body["price"] == pytest.approx(0.18)
    assert "price" not in offers.request(Wish(), "image", "l", "true", None)


def test_resources_become_a_wish():
    wish = offers.wish_of(
        {"gpu": 2, "gpu_model": "H100_SXM|A100_SXM4", "gpu_mem_mb": 80000, "mem_mb": 64000,
         "disk_mb": 120500, "runtime": 90},
        Wish(disk_gb=40),
    )  # fmt: skip
    assert wish == Wish(2, ("H100_SXM", "A100_SXM4"), 80000, 64000, 121, 5400.0)
    asked = offers.query(wish, Market(regions=("PL",)))
    assert asked["gpu_name"] == {"in": ["H100 SXM", "A100 SXM4"]}
    assert asked["geolocation"] == {"in": ["PL"]} and asked["allocated_storage"] == 121
    assert asked["duration"] == {"gte": 5400.0}


def test_resources_that_are_not_known_yet_count_as_nothing():
    assert offers.wish_of({"gpu": 1, "mem_mb": "<TBD>", "runtime": None}, Wish()) == Wish()


def instance(**facts):
    raw = {"id": 5, "label": "x", "dph_total": 0.2, "is_bid": True, **facts}
    return Instance.read(raw)


@pytest.mark.parametrize(
    "facts, words",
    [({"is_bid": False}, "on demand"), ({"dph_total": 9.0}, "more than the cap"), ({}, "")],
)
def test_the_contract_is_checked_after_the_create(facts, words):
    wish = Wish(interruptible=True, max_price=1.0)
    found = offers.wrong_contract(instance(**facts), wish, 0.2)
    assert words in found and bool(found) == bool(words)


def test_a_direct_address_comes_before_the_proxy():
    ports = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}]}
    facts = {"public_ipaddr": "1.2.3.4", "ports": ports, "ssh_host": "ssh5.vast.ai"}
    found = instance(**facts, ssh_port=12345).addresses
    assert found == (("1.2.3.4", 40022), ("ssh5.vast.ai", 12345))


def test_messages_of_machines_that_never_come_up():
    assert offers.fatal("Error response from daemon: toomanyrequests: pull rate limit")
    assert offers.fatal("OCI runtime create failed: nvidia-container-cli: ...")
    assert not offers.fatal("pytorch/pytorch: Pulling from registry")
    assert not offers.fatal("success, running pytorch/pytorch/ssh")


@given(wishes)
def test_a_machine_rented_for_a_wish_serves_it(wish):
    offer = replace(OFFER, num_gpus=wish.gpus, gpu_ram=81559)
    assert offers.serves(offer, wish.disk_gb, wish.interruptible, wish)
    assert not offers.serves(offer, wish.disk_gb - 1, wish.interruptible, wish)


def test_what_needs_a_steady_machine_never_gets_an_interruptible_one():
    assert not offers.serves(OFFER, 40, True, Wish())
    assert offers.serves(OFFER, 40, False, Wish(interruptible=True))


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
    lines = [intend(n, 0.0, machine=m) for m, n in enumerate("abcd")]
    lines += [end("a", 10.0, 0, why="boot: stuck"), end("b", 10.0, 0, why="idle")]
    lines += [end("c", 10.0, 0, why="silent"), end("d", 10.0, 0, why="outbid")]
    assert ledger.bad_machines(lines, 20.0) == {0, 2}
    assert ledger.bad_machines(lines, 10.0 + ledger.FORGIVEN) == set()


def test_lines_reach_the_disk_whole_and_a_torn_last_one_is_left_out(tmp_path):
    book = ledger.Ledger(tmp_path / "deep/ledger.jsonl", "r", lambda: 5.0)
    book.write("rent", label="a", instance=1)
    with open(book.path, "a") as file:
        file.write('{"what": "end", "lab')
    with pytest.warns(UserWarning, match=r"ledger\.jsonl, line 2: cut off, left out"):
        assert [line["what"] for line in ledger.read(book.path)] == ["rent"]
    book.write("intend", label="b")
    assert [line["what"] for line in ledger.read(book.path)] == ["rent", "intend"]
    assert ledger.read(tmp_path / "none") == []
    book.path.write_text(book.path.read_text().strip())  # as some editors leave a file
    book.write("end", label="b")
    assert [line["what"] for line in ledger.read(book.path)] == ["rent", "intend", "end"]


@pytest.mark.parametrize("damage", [b'{"what": "end", "lab\n', b"\xff\n", b"3\n"])
def test_a_damaged_line_is_an_error_wherever_else_it_stands(tmp_path, damage):
    """Money is reckoned from it: what cannot be read must not count as nothing."""
    book = ledger.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 5.0)
    book.write("rent", label="a", instance=1)
    with open(book.path, "ab") as file:
        file.write(damage)
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    readers = (ledger.read, spent, lambda path: ledger_attempts([path]))
    for read in readers:
        with pytest.raises((ValueError, StaleInput), match=r"ledger\.jsonl, line 2"):
            read(book.path)


def test_trace_and_crate_read_a_ledger_as_the_executor_does(tmp_path):
    book = ledger.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 5.0)
    attempt = {"attempt": "r-1", "job": "j", "label": "a", "dph": 1.0, "seconds": 1.0}
    book.write("attempt", **attempt, wasted=0.0, why="done")
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    with open(book.path, "a") as file:
        file.write('{"what": "end", "dollars": 9')
    with pytest.warns(UserWarning, match="cut off"):
        assert spent(book.path) == 2.0
    with pytest.warns(UserWarning, match="cut off"):
        assert list(ledger_attempts([book.path])) == ["r-1"]


def test_the_summary_tells_hours_dollars_and_waste():
    lines = [intend("a", 0.0, 2.0), end("a", 3600.0, 2.0, 3600.0)]
    lines.append({"what": "attempt", "dph": 2.0, "wasted": 900.0, "run": "r", "time": 1.0})
    said = ledger.summary(lines, 3600.0)
    assert said == "1 machines, 1.00 h, $2.00 ($0.50 of it for 1 attempts' lost work)"


# ---- watching ------------------------------------------------------------------------------------

LIMITS = Limits()
CALM = Sight(now=5000, started=0, contact=4999, progress=4990, cap=9000, gpu_idle=False)


def test_a_job_that_goes_on_is_left_alone_and_looked_at_rarely():
    assert watch.verdict(CALM, LIMITS) is None
    assert watch.look_again(CALM, LIMITS) == LIMITS.sparse


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"listed": False}, None),  # it answers: the list is late
        ({"listed": False, "contact": 4900}, "gone"),
        ({"status": "stopped"}, "outbid"),
        ({"status": "exited"}, "outbid"),
        ({"status": "offline", "status_since": 4600, "contact": 4600}, "offline"),
        ({"status": "offline", "status_since": 4600}, None),  # it answers: it is not lost
        ({"status": "offline", "status_since": 4990, "contact": 4600}, None),
        ({"contact": 5000 - LIMITS.silent - 1}, "silent"),
        ({"cap": 4000}, "overtime"),
        ({"progress": 5000 - LIMITS.stall - 1, "gpu_idle": True}, "stalled"),
        ({"progress": 5000 - LIMITS.stall - 1, "gpu_idle": None}, "stalled"),
        ({"progress": 5000 - LIMITS.stall - 1}, None),  # the GPU works
        ({"status": None}, None),  # the API does not know
    ],
)
def test_verdicts(change, expected):
    assert watch.verdict(replace(CALM, **change), LIMITS) == expected


@pytest.mark.parametrize("change", [{"alert": True}, {"gpu_idle": True}, {"progress": 4000}])
def test_alarm_brings_dense_looks(change):
    assert watch.look_again(replace(CALM, **change), LIMITS) <= LIMITS.dense


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from([True, False]))
def test_every_wait_is_bounded_and_so_is_patience(age, quiet, silent, idle):
    sight = replace(CALM, now=1e6, started=1e6 - age, progress=1e6 - quiet, contact=1e6 - silent)
    sight = replace(sight, cap=math.inf, gpu_idle=idle)
    assert 0 < watch.look_again(sight, LIMITS) <= LIMITS.sparse
    if silent > LIMITS.silent or (idle and quiet > LIMITS.stall):
        assert watch.verdict(sight, LIMITS)


def test_short_jobs_are_not_kept_waiting():
    for age in (1, 10, 50):
        young = replace(CALM, now=age, started=0, contact=age, progress=age)
        assert watch.look_again(young, LIMITS) <= max(0.5, age / 20)


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
    assert watch.remedy(why, times, 3, output) == expected


@given(st.floats(1, 1e4), st.floats(0, 1e4), st.floats(1, 20))
def test_states_take_at_most_their_share_of_the_time(every, took, share):
    due = max(every, share * took)
    assert watch.carry_home_due(1000 + 1.01 * due, 1000, took, every, share)
    assert not watch.carry_home_due(1000 + 0.99 * due, 1000, took, every, share)


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


def test_the_image_holds_the_pinned_torch():
    pin = (Path(__file__).parents[2] / "requirements-torch.txt").read_text().strip()
    version = pin.removeprefix("torch==")
    assert ExecutorSettings().image.startswith(f"pytorch/pytorch:{version}-cuda")


def test_packages_are_installed_after_the_setup_where_jobs_will_run():
    assert setup_of(ExecutorSettings()) == SETUP
    chosen = ExecutorSettings(setup="make it", activate=". it", packages="s3fs==1 other")
    assert setup_of(chosen) == "make it && . it && python -m pip install -q s3fs==1 other"
