"""The client of Vast.ai against the fake service, over HTTP on this computer. No machines."""

import pytest
from fakes.vast import FakeVast
from snakemake_executor_plugin_vast.market import vast
from snakemake_executor_plugin_vast.market.protocol import (
    AccountRefused,
    Refused,
    Requirements,
    SearchRules,
)
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
