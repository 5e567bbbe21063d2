"""Promises of the fake Vast, its API and its money; faults and machines have files of their own."""

import time

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.client import Client
from fakes.vast import FakeVast, Offer
from fakes.vast.market import Clock
from fakes.vast.world import World

pytestmark = pytest.mark.e2e
HOUR = 3600


# ---- offers --------------------------------------------------------------------------------------


def test_a_search_filters_orders_and_limits(client):
    offers = client.search(
        verified={"eq": True}, external={"eq": False}, rentable={"eq": True}, rented={"eq": False},
        gpu_name={"eq": "RTX 4090"}, num_gpus={"eq": 1}, gpu_ram={"gte": 24000},
        reliability={"gte": 0.98}, cuda_max_good={"gte": 12.8}, direct_port_count={"gte": 1},
        inet_down={"gte": 200}, disk_space={"gte": 40}, datacenter={"eq": True},
        duration={"gte": 86400}, geolocation={"in": ["PL", "US"]}, dph_total={"lte": 0.5},
        order=[["dph_total", "desc"]], type="on-demand", limit=20, allocated_storage=72,
    )  # fmt: skip
    assert [offer["id"] for offer in offers] == [503, 501]
    assert offers[1]["ask_contract_id"] == 501 and offers[1]["reliability2"] == 0.99
    assert offers[1]["dph_total"] == pytest.approx(0.30 + 0.15 * 72 / 720)  # with storage
    assert len(client.search(limit=2)) == 2


def test_a_search_for_what_does_not_exist_is_refused(client):
    for filters in ({"gpu_nmae": {"eq": "x"}}, {"num_gpus": 1}, {"num_gpus": {"is": 1}}):
        reply = client("POST", "/v0/bundles/", filters)
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_args")


def test_a_search_reads_numbers_that_are_texts(client):
    """The official client sends them so, and versions as one number."""

    def found(**filters):
        return [offer["id"] for offer in client.search(order=[["id", "asc"]], **filters)]

    fast = {"gpu_ram": {"gte": "80000"}, "num_gpus": {"in": ["1"]}, "dph_total": {"lt": "2"}}
    assert found(**fast) == [505] and found(compute_cap={"lt": 890}) == [505]
    assert len(found(driver_version={"gte": 535086005})) == 8 == len(found(id={"gt": "500"}))
    assert found(driver_version={"gt": "570.86.15"}) == []
    reply = client("POST", "/v0/bundles/", {"gpu_ram": {"gte": "much"}})
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_args")


def test_the_newer_search_gives_the_columns_that_were_asked_for(client):
    query = {"num_gpus": {"eq": 2}}
    for columns, names in ((["id", "num_gpus"], {"id", "num_gpus"}), (["*"], None)):
        body = {"select_cols": columns, "q": query}
        [row] = client("PUT", "/v0/search/asks/", body).json()["offers"]
        assert row["id"] == 504 and (names is None or set(row) == names)


def test_a_search_shows_64_offers_at_most():
    market = [Offer(number, number) for number in range(1, 100)]
    with FakeVast(0, market, machines=False) as fake:
        assert len(Client(fake).search(limit=1000)) == 64


# ---- contracts -----------------------------------------------------------------------------------


def test_an_offer_is_rented_once(client):
    reply = client.create(501, label="mine").json()
    assert reply["success"] and set(reply) == {"success", "new_contract", "instance_api_key"}
    assert 501 not in [offer["id"] for offer in client.search()]
    again = client.create(501)
    assert again.status_code == 410
    assert again.json()["error"] == "no_such_ask" and again.json()["ask_id"] == 501
    assert client.create(1).status_code == 404
    assert client.destroy(reply["new_contract"]).json() == {"success": True}
    assert 501 in [offer["id"] for offer in client.search()]


@pytest.mark.parametrize(
    "request_, error",
    [
        ({"onstart": "x" * 4049}, "invalid_args"),
        ({"onstart": "x" * 4000, "args": ["y" * 49]}, "invalid_args"),
        ({"label": "x" * 257}, "invalid_args"),
        ({"image": None}, "invalid_args"),
        ({"image": "x" * 1025}, "invalid_args"),
        ({"disk": 7}, "invalid_args"),
        ({"disk": 501}, "invalid_args"),
        ({"env": "-e A=1"}, "invalid_args"),
        ({"env": {"A": "x" * 32768}}, "invalid_args"),
        ({"runtype": "telnet"}, "invalid_args"),
        ({"price": 0}, "invalid_price"),
        ({"price": 129}, "invalid_price"),
    ],
)
def test_a_bad_request_is_refused_and_rents_nothing(client, fake, request_, error):
    reply = client.create(**request_)
    assert (reply.status_code, reply.json()["error"]) == (400, error)
    assert fake.instances == []


def test_the_limits_themselves_are_allowed(client):
    client.rent(onstart="x" * 4048, label="y" * 256, disk=8)


def test_a_contract_comes_up_in_steps_and_goes_for_good(client, fake):
    number = client.rent(label="mine", env={"A": "1", "-p 22:22": "1"}, onstart="true")
    seen = [client.get(number)["actual_status"]]
    for seconds in (1, 1, 18):
        fake.advance(seconds)
        seen.append(client.get(number)["actual_status"])
    assert seen == [None, "created", "loading", "running"]
    shown = client.get(number)
    assert shown["id"] == number and shown["label"] == "mine" and shown["machine_id"] == 7
    assert shown["extra_env"] == [["A", "1"], ["-p 22:22", "1"]]
    assert shown["intended_status"] == shown["cur_state"] == shown["next_state"] == "running"
    assert shown["ports"]["22/tcp"][0]["HostPort"].isdigit() and shown["ssh_port"] > 0
    assert not shown["is_bid"] and shown["end_date"] - shown["start_date"] == 30 * 86400
    assert shown["dph_total"] == pytest.approx(0.315)
    assert client.destroy(number).json() == {"success": True}
    assert client.get(number) is None
    assert client.destroy(number).status_code == 404


def test_the_list_is_paged_and_filtered(fake):
    fake.world.offers.update({number: Offer(number, number) for number in range(1, 31)})
    client = Client(fake)
    numbers = [client.rent(n, label="a" if n % 2 else "b") for n in range(1, 31)]
    first = client("GET", "/v1/instances/", limit=100).json()
    assert len(first["instances"]) == 25 and first["total_instances"] == 30
    second = client("GET", "/v1/instances/", after_token=first["next_token"]).json()
    assert second["next_token"] is None
    assert [row["id"] for row in first["instances"] + second["instances"]] == numbers
    only = client("GET", "/v1/instances/", select_filters='{"label":{"eq":"a"}}').json()
    assert only["instances_found"] == 15 and {i["label"] for i in only["instances"]} == {"a"}
    retired = client("GET", "/v0/instances/")
    assert (retired.status_code, retired.json()["error"]) == (410, "deprecated_endpoint")
    client("DELETE", "/v0/instances/", {"instance_ids": numbers[1:]})
    assert [instance.id for instance in fake.instances] == numbers[:1]


# ---- keys ----------------------------------------------------------------------------------------


def test_without_the_right_key_nothing_goes(fake):
    wrong = Client(fake, "guess")("GET", "/v1/instances/")
    assert (wrong.status_code, wrong.json()["error"]) == (404, "auth_error")
    assert requests.get(f"{fake.url}/api/v1/instances/", timeout=20).status_code == 404
    by_query = requests.get(f"{fake.url}/api/v1/instances/?api_key={fake.key}", timeout=20)
    assert by_query.status_code == 200


def test_a_container_may_stop_and_destroy_itself_and_nothing_else(client, fake):
    number, other = client.rent(501), client.rent(502)
    inside = Client(fake, fake.instance(number).key)
    for refused in (
        inside.destroy(other),
        inside.state(other, "stopped"),
        inside.create(503),
        inside("GET", "/v1/instances/"),
        inside("GET", "/v0/users/current/"),
        inside("DELETE", "/v0/instances/", {"instance_ids": [number]}),
    ):
        assert refused.status_code == 403 and not refused.json()["success"]
    assert inside.state(number, "stopped").status_code == 200
    assert client.get(number)["intended_status"] == "stopped"
    assert inside.destroy(number).status_code == 200
    assert [instance.id for instance in fake.instances] == [other]
    assert inside.destroy(other).status_code == 404  # its key went with it


# ---- limits --------------------------------------------------------------------------------------


def test_calls_that_come_too_fast_are_refused_in_plain_text():
    with FakeVast(time_scale=0, machines=False) as fake:
        client = Client(fake)
        client.rent(501)
        refused = client.create(502)
        assert refused.status_code == 429 and "Retry-After" not in refused.headers
        assert refused.text == "API requests too frequent: endpoint threshold=4.5"
        fake.advance(11)  # a refusal makes the next wait longer
        assert client.create(502).status_code == 429
        fake.advance(12)
        client.rent(502)
        assert client("GET", "/v1/instances/").status_code == 200  # every endpoint by itself
        assert client("GET", "/v1/instances/").status_code == 429
        assert Client(fake, "other")("GET", "/v1/instances/").status_code == 404  # and key
        for _ in range(10):
            client.search()
        assert client("POST", "/v0/bundles/", {}).status_code == 429
        fake.advance(60)
        client.search()


def test_searches_of_a_day_are_counted_until_midnight():
    with FakeVast(time_scale=0, limits=False, machines=False, daily_searches=2) as fake:
        client = Client(fake)
        for _ in range(2):
            client.search()
        refused = client("POST", "/v0/bundles/", {})
        assert (refused.status_code, refused.json()["error"]) == (429, "search_quota_exceeded")
        fake.advance(24 * HOUR - fake.now % (24 * HOUR))
        client.search()


# ---- money ---------------------------------------------------------------------------------------


def test_gpu_is_paid_while_running_and_storage_until_the_end(client, fake):
    number = client.rent(501, disk=72)  # 0.30 $/h and 0.015 $/h
    fake.advance(20)
    assert fake.spent == pytest.approx(0.015 * 20 / HOUR)  # not running yet
    fake.advance(HOUR)
    client.state(number, "stopped")
    fake.advance(10 * HOUR)
    assert fake.spent == pytest.approx(0.30 + 0.015 * (11 + 20 / HOUR))
    client.state(number, "running")
    fake.advance(20 + HOUR)
    fake.vanish(number)  # what cannot be used is not paid
    before = fake.spent
    fake.advance(HOUR)
    assert client.get(number)["actual_status"] == "offline" and fake.spent == before
    client.destroy(number)
    fake.advance(HOUR)
    assert fake.spent == before == pytest.approx(0.60 + 0.015 * (12 + 40 / HOUR))
    balance = client("GET", "/v0/users/current/").json()["balance"]
    assert balance == pytest.approx(100 - before)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 5 * HOUR)), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_the_meter_is_the_sum_of_its_hours(tmp_path_factory, phases, slices):
    """Whatever is started and stopped when, and however often somebody looks at the clock."""
    world = World(
        tmp_path_factory.mktemp("world"), [Offer(1, 1)], Clock(0), 1e6, (0, 0, 0), machines=False
    )
    try:
        with world.changed:
            instance = world.create(world.offers[1], {"disk": 72, "runtype": "ssh"}, {})
        for running, seconds in phases:
            with world.changed:
                world.catch_up()
                (world.start if running else world.stop)(instance)
            for _ in range(slices):
                world.advance(seconds / slices)
        hours = sum(seconds for _, seconds in phases) / HOUR
        used = sum(seconds for running, seconds in phases if running) / HOUR
        assert world.spent == pytest.approx(0.30 * used + 0.015 * hours, abs=1e-9)
    finally:
        world.close()


def test_without_money_everything_stops_at_that_moment():
    with FakeVast(0, balance=0.63, boot_seconds=(0, 0, 0), limits=False, machines=False) as fake:
        client = Client(fake)
        number = client.rent(501, disk=72)
        fake.advance(10 * HOUR)  # the money lasts for two
        assert client.get(number)["actual_status"] == "exited"
        assert fake.spent == pytest.approx(0.63 + 8 * 0.015)
        assert client.create(502).json()["error"] == "insufficient_credit"


def test_a_saved_card_is_charged_where_the_credit_ends():
    with FakeVast(0, balance=0.5, limits=False, machines=False, card=10.0) as fake:
        client = Client(fake)
        number = client.rent(501, disk=72)
        fake.advance(10 * HOUR)
        assert client.get(number)["actual_status"] == "running" and fake.spent > 3
        account = client("GET", "/v0/users/current/").json()
        assert account["has_billing"] and account["balance"] == pytest.approx(10.5 - fake.spent)
        bills = client("GET", "/v0/users/me/invoices").json()
        assert [row["amount"] for row in bills["invoices"] if row["type"] == "payment"] == [
            "0.500",
            "10.000",
        ]
        charged = sum(float(row["amount"]) for row in bills["invoices"] if row["type"] == "charge")
        assert charged == pytest.approx(bills["current"]["charges"], abs=1e-3) and charged > 3


def test_a_rental_ends_with_its_offer(client, fake):
    number = client.rent()
    fake.advance(30 * 86400)
    assert client.get(number)["actual_status"] == "exited"
    client.state(number, "running")
    fake.advance(60)
    assert client.get(number)["actual_status"] == "exited"


def states(client, number):
    shown = client.get(number)
    return tuple(
        shown[name] for name in ("actual_status", "intended_status", "cur_state", "next_state")
    )


def test_a_stopped_container_has_exited_and_may_wait_for_its_gpu(client, fake):
    number = client.rent(501)
    fake.advance(20)
    client.state(number, "stopped")
    assert states(client, number) == ("exited", "stopped", "stopped", "stopped")
    fake.take(501)
    client.state(number, "running")
    fake.advance(HOUR)
    assert states(client, number) == ("exited", "running", "stopped", "running")
    fake.take(501, False)
    fake.advance(20)
    assert states(client, number) == ("running",) * 4


def test_a_container_that_ends_by_itself_is_paid_until_it_is_rebooted(client, fake):
    number = client.rent(501)
    fake.advance(20)
    fake.exit(number)
    assert states(client, number) == ("exited", "running", "running", "running")
    before = fake.world.spent_on["gpu"]
    fake.advance(HOUR)
    assert fake.world.spent_on["gpu"] == pytest.approx(before + 0.30)
    client.state(number, "running")  # as it is already
    fake.advance(HOUR)
    assert client.get(number)["actual_status"] == "exited"
    client("PUT", f"/v0/instances/reboot/{number}/", {})
    fake.advance(20)
    assert client.get(number)["actual_status"] == "running"


# ---- interruptible rent --------------------------------------------------------------------------


def test_a_bid_search_without_a_price_rents_on_demand(client):
    offer = client.search(type="bid", order=[["dph_total", "asc"]], limit=2)[1]
    assert offer["is_bid"] and offer["dph_base"] == offer["min_bid"] == 0.15
    trapped = client.get(client.rent(offer["id"]))
    assert not trapped["is_bid"] and trapped["dph_base"] == 0.30
    wanted = client.get(client.rent(502, price=0.20))
    assert wanted["is_bid"] and wanted["dph_base"] == 0.20


def test_who_is_outbid_is_stopped_pays_storage_and_may_come_back(client, fake):
    number, demand = client.rent(501, price=0.20), client.rent(502)
    fake.advance(20)
    fake.set_min_bid(501, 0.21)
    assert states(client, number) == ("running", "running", "stopped", "running")
    fake.advance(20)
    assert states(client, number) == ("stopped", "running", "stopped", "running")
    before = fake.world.spent_on["storage"]
    fake.advance(HOUR)
    assert fake.world.spent_on["storage"] == pytest.approx(before + 2 * 0.015)
    assert client("PUT", f"/v0/instances/bid_price/{number}/", {"price": 0.25}).ok
    fake.advance(20)
    assert client.get(number)["actual_status"] == "running"
    assert client.get(number)["dph_base"] == 0.25
    with pytest.raises(ValueError, match="on demand"):
        fake.outbid(demand)
    fake.outbid(number)
    assert client.get(number)["cur_state"] == "stopped"


def test_too_low_a_bid_never_starts(client, fake):
    assert client.create(501, price=0.10, cancel_unavail=True).status_code == 410
    number = client.rent(501, price=0.10)
    fake.advance(HOUR)
    assert client.get(number)["actual_status"] is None
    fake.set_min_bid(501, 0.09)
    fake.advance(20)
    assert client.get(number)["actual_status"] == "running"


def test_time_runs_by_its_scale():
    clock = Clock(1000)
    real, before, after, later = time.monotonic(), clock.now(), clock.now(), time.monotonic()
    assert 0 < after - before <= 1000 * (later - real)
    assert clock.real(500) == 0.5 and Clock(0).real(1) is None
