"""The client of Vast.ai against the fake service, over HTTP on this computer. No machines."""

import pytest
from fakes.vast import FakeVast
from snakemake_executor_plugin_vast.market import selection, vast
from snakemake_executor_plugin_vast.market.protocol import (
    AccountRefused,
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
    mine.instances()
    monkeypatch.setenv("CONTAINER_ID", str(number))
    monkeypatch.setenv("CONTAINER_API_KEY", fake.instance(number).key)
    switch = {}
    exec(mine.machine_control, switch)
    switch["stop"]()
    switch["destroy"]()
    names = [(request.name, request.agent.partition("/")[0]) for request in fake.requests[1:]]
    ours = "snakemake-executor-plugin-vast"
    assert names == [("list", ours), ("state", ours), ("destroy", ours)] and not fake.instances


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
