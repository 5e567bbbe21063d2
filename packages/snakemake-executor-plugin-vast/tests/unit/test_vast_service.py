"""The client of Vast.ai against the fake service, over HTTP on this computer. No machines."""

import contextlib

import pytest
from fakes.vast import FakeVast, Offer
from snakemake_executor_plugin_vast.market import selection, vast
from snakemake_executor_plugin_vast.market.protocol import (
    AccountRefused,
    OfferGone,
    Order,
    Refused,
    Requirements,
    SearchRules,
)
from snakemake_executor_plugin_vast.settings import ExecutorSettings, search_rules
from vast_support.stand_ins import ServiceClock

ANYTHING = Requirements(), SearchRules()
DAY = 24 * 3600


def client_of(fake, key=None):
    return vast.Vast(key or fake.key, fake.url, ServiceClock(fake), jitter=lambda: 0.0)


# ---- refusals ------------------------------------------------------------------------------------


def test_what_a_wrong_key_may_not_see_is_not_gone(fake, client):
    """Vast answers 404 to a wrong key; a machine that counts as gone would be billed on."""
    number = client.rent()
    stranger = client_of(fake, "wrong-key-wrong-key")
    for call in (stranger.instance, stranger.destroy, stranger.start, stranger.reboot):
        with pytest.raises(AccountRefused, match="VAST_API_KEY"):
            call(number)
    assert [instance.id for instance in fake.instances] == [number]


def test_a_request_that_vast_has_retired_ends_no_machine(fake, client):
    number = client.rent()
    fake.fault("destroy", status=410, error="deprecated_endpoint")
    fake.fault("get", status=410, error="deprecated_endpoint")
    for call in (client_of(fake).destroy, client_of(fake).instance):
        with pytest.raises(AccountRefused, match="--upgrade snakemake-executor-plugin-vast"):
            call(number)
    assert client_of(fake).instance(number).id == number


def test_a_machine_that_is_gone_is_gone(fake, client):
    number = client.rent()
    client_of(fake).destroy(number)
    client_of(fake).destroy(number)
    assert client_of(fake).instance(number) is None


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "text": "<html>Not Found</html>"},
        {"status": 302, "location": "/api/v0/users/current/"},
    ],
)
def test_html_and_redirects_end_no_machine(fake, client, answer):
    number = client.rent()
    fake.fault("destroy", **answer)
    with pytest.raises(Refused):
        client_of(fake).destroy(number)
    assert len(fake.requests) == 2, "no redirect was followed"


def test_a_search_quota_stops_with_the_time_of_its_end():
    with FakeVast(time_scale=0, limits=False, machines=False, daily_searches=1) as fake:
        mine = client_of(fake)
        assert mine.search(*ANYTHING)
        for _ in range(3):
            with pytest.raises(AccountRefused, match=r"allowed again from 20\d\d-.* 00:00 UTC on"):
                mine.search(*ANYTHING)
        assert len(fake.calls("search")) == 2, "no search was sent in vain"
        fake.advance(DAY - fake.now % DAY)
        assert mine.search(*ANYTHING)


def test_the_client_and_the_dead_man_switch_name_themselves(fake, client, monkeypatch):
    number = client.rent()
    mine = client_of(fake)
    mine.instances("")
    monkeypatch.setenv("CONTAINER_ID", str(number))
    monkeypatch.setenv("CONTAINER_API_KEY", fake.instance(number).key)
    switch = {}
    exec(mine.machine_control(), switch)
    switch["stop"]()
    switch["destroy"]()
    names = [(request.name, request.agent.partition("/")[0]) for request in fake.requests[1:]]
    ours = "snakemake-executor-plugin-vast"
    assert names == [("list", ours), ("state", ours), ("destroy", ours)] and not fake.instances


# ---- the account ---------------------------------------------------------------------------------


def test_the_credit_of_the_account_is_read(fake):
    assert client_of(fake).credit() == pytest.approx(fake.world.balance)


def test_a_key_that_may_not_read_the_credit_may_rent(fake):
    fake.fault("user", times=None, status=403)
    assert client_of(fake).credit() is None


# ---- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["instances", "instance", "destroy", "start"])
def test_no_call_comes_too_early_even_if_the_one_before_it_was_late(call):
    """The network holds up every second request for 60 ms."""
    with FakeVast(time_scale=0, machines=False, jitter=(0.06, 0.0)) as fake:
        mine = client_of(fake)
        number = mine.create(mine.search(*ANYTHING)[0], Order("label", "image", 40, "true"))
        fake.advance(60.0)
        arguments = ("",) if call == "instances" else (number,)
        for _ in range(8):
            with contextlib.suppress(OfferGone):
                getattr(mine, call)(*arguments)
        assert 429 not in [request.status for request in fake.requests]


# ---- searches ------------------------------------------------------------------------------------


def test_offers_can_be_ranked_by_their_score(fake):
    """At first the fastest machine for its price is not the cheapest one."""
    fake.world.offers[503].more["dlperf"] = 200.0
    for rank, first in (("price", 501), ("score", 503)):
        rules = search_rules(ExecutorSettings(rank=rank))
        offers = selection.rank(client_of(fake).search(ANYTHING[0], rules), ANYTHING[0], rules)
        assert offers[0].id == first


def test_offers_of_unreliable_hosts_are_left_out_whatever_the_market_returns(fake):
    rules = search_rules(ExecutorSettings(reliability=0.995))
    offers = client_of(fake).search(*ANYTHING)
    assert offers and not selection.rank(offers, ANYTHING[0], rules)


def found(fake, **wanted):
    """The offers that a search finds and that fit, in the order in which they are tried."""
    requirements = Requirements(**wanted)
    offers = client_of(fake).search(requirements, SearchRules())
    return selection.rank(offers, requirements, SearchRules())


def test_the_memory_of_an_offer_is_its_share_of_the_host():
    """The cheap one has a GPU of 32, so 16 of its host's 515 GB."""
    offers = [
        Offer(601, 31, dph_base=0.05, host_gpus=32, host_ram=515_000),
        Offer(602, 32, dph_base=0.30, host_gpus=4, host_ram=515_000),
    ]
    with FakeVast(time_scale=0, offers=offers, limits=False, machines=False) as fake:
        [roomy] = found(fake, mem_mb=48_000)
        assert (roomy.id, roomy.mem_mb) == (602, 128_750)
        assert [offer.id for offer in found(fake, mem_mb=16_000)] == [601, 602]


def test_a_host_without_a_direct_port_is_not_rented(fake):
    fake.world.offers[501].direct_port_count = 0
    assert found(fake)[0].id == 502


def test_the_price_of_transfers_decides_which_offer_comes_first(fake):
    """7 GB every 20 minutes at 2 cents a GB are 42 cents per hour, more than the GPU."""
    cheap, fair = fake.world.offers[501], fake.world.offers[502]
    cheap.inet_up_cost, fair.inet_up_cost, fair.dph_base = 0.02, 0.0, 0.40
    assert found(fake)[0].id == 501
    saving = Requirements(upload_gb=21.0)
    first, second = found(fake, upload_gb=21.0)[:2]
    assert (first.id, second.id) == (503, 502)
    dear = next(offer for offer in found(fake, upload_gb=21.0) if offer.id == 501)
    rent = selection.hourly(dear, Requirements(), SearchRules())
    assert selection.hourly(dear, saving, SearchRules()) == pytest.approx(rent + 0.42)
    assert 501 not in [offer.id for offer in found(fake, upload_gb=21.0, max_price=0.7)]


# ---- contracts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("interruptible", [True, False])
def test_a_contract_costs_what_its_offer_says(fake, interruptible):
    """Storage is priced by the month, of 720 hours, and is half of this price."""
    wanted = Requirements(disk_gb=400, interruptible=interruptible)
    offer = client_of(fake).search(wanted, SearchRules())[0]
    bid = selection.bid(offer, wanted, SearchRules())
    number = client_of(fake).create(offer, Order("label", "image", 400, "true", bid))
    expected = selection.rent(offer, wanted, SearchRules())
    assert client_of(fake).instance(number).price == pytest.approx(expected, rel=1e-4)


# ---- the state of a machine ----------------------------------------------------------------------


def test_a_machine_that_was_outbid_is_stopped_while_it_is_still_listed_as_running(fake, client):
    number = client.rent(501, price=0.20)
    fake.advance(20)
    assert client_of(fake).instance(number).status == "running"
    fake.outbid(number)
    assert client.get(number)["actual_status"] == "running"
    assert client_of(fake).instance(number).status == "stopped"


@pytest.mark.parametrize("how", ["stopped", "exited by itself"])
def test_a_machine_whose_container_has_exited_can_be_started(fake, client, how):
    """Its state is still on it. One that has exited by itself runs again after a reboot alone."""
    number = client.rent()
    fake.advance(20)
    client.state(number, "stopped") if how == "stopped" else fake.exit(number)
    mine = client_of(fake)
    assert client.get(number)["actual_status"] == "exited"
    assert mine.instance(number).status == "stopped"
    mine.start(number)
    fake.advance(20)
    assert mine.instance(number).status == "running"
