"""The contract with Vast.ai: what the executor reads, the fake answers and a fixture holds."""

import json

import pytest
from snakemake_executor_plugin_vast.market import vast, vast_offers
from snakemake_executor_plugin_vast.market.protocol import Order, Requirements, SearchRules
from vast_support.contract import ANSWERS, INSTANCE, OFFER, differences, scrubbed
from vast_support.smoke import Recorder
from vast_support.stand_ins import ServiceClock

SECRETS = ("sk-live-8f3A1c", "203.0.113.77", "jane.doe@example.com")
NUMBER = 987654321


@pytest.fixture
def answers(fake):
    """Each answer of the fake: name -> (status, body). The machine is a bid, and runs."""
    found = {}

    def note(name, recorder=None):
        reply = (recorder or mine).latest
        found[name] = reply.status_code, reply.json()

    mine = Recorder(fake.key, fake.url, ServiceClock(fake))
    offer = mine.search(Requirements(), SearchRules())[0]
    note("search")
    number = mine.create(offer, Order("label", "image", 40, "true", bid=0.2))
    inside = Recorder(mine.latest.json()["instance_api_key"], fake.url, ServiceClock(fake))
    note("create")
    fake.advance(60)
    inside.check(number)
    note("switch", inside)
    mine.instances()
    note("list")
    mine.instance(number)
    note("show")
    mine.stop(number)
    note("stop")
    mine.start(number)
    note("start")
    stranger = Recorder("wrong", fake.url, ServiceClock(fake))
    with pytest.raises(vast.AccountRefused):
        stranger.instances()
    note("wrong-key", stranger)
    mine.destroy(number)
    note("destroy")
    return found


def test_the_fake_answers_as_the_contract_says(answers):
    assert set(answers) == set(ANSWERS)
    for name, (status, body) in answers.items():
        assert differences(name, status, body) == []


def test_the_smoke_test_makes_the_very_call_of_the_dead_man_switch(fake, client, monkeypatch):
    number = client.rent()
    key = fake.instance(number).key
    monkeypatch.setenv("CONTAINER_ID", str(number))
    monkeypatch.setenv("CONTAINER_API_KEY", key)
    control = {}
    exec(vast.Vast(fake.key, fake.url).machine_control(), control)
    control["check"]()
    Recorder(key, fake.url, ServiceClock(fake)).check(number)
    switch, smoke = ((c.method, c.path, c.body, c.agent, c.status) for c in fake.calls("state"))
    assert switch == smoke


class Watched(dict):
    """A row that notes which of its fields are read."""

    def __init__(self, row):
        super().__init__(row)
        self.read = set()

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


def test_the_contract_names_every_field_that_the_executor_reads(answers):
    [row] = answers["list"][1]["instances"]
    instance, offer = Watched(row), Watched(answers["search"][1]["offers"][0])
    offer.pop("ask_contract_id")
    offer.update(reliability2=0, cpu_cores=0)  # so that it reads what may stand for them
    vast.read_instance(instance)
    vast_offers.read_offer(offer)
    assert instance.read == set(INSTANCE)
    assert offer.read == {name.rstrip("?") for name in OFFER}


@pytest.mark.parametrize(
    "name, change, place",
    [
        ("list", {"ports": [22]}, "list.instances[0].ports: a list, an object was expected"),
        ("list", {"dph_total": "0.3"}, "list.instances[0].dph_total: a text"),
        ("list", {"machine_id": True}, "list.instances[0].machine_id: true or false"),
        ("show", {"actual_status": SECRETS[0]}, "show.instances.actual_status: a text"),
        ("show", {"ssh_host": 5}, "show.instances.ssh_host: a number"),
        ("show", None, "show.instances: null, an object was expected"),
    ],
)
def test_another_type_is_a_difference(answers, name, change, place):
    status, body = answers[name]
    row = body["instances"][0] if name == "list" else body["instances"]
    if change is None:
        body["instances"] = None
    else:
        row.update(change)
    [difference] = differences(name, status, body)
    assert difference.startswith(place) and SECRETS[0] not in difference


def test_a_missing_field_and_another_status_are_differences(answers):
    del answers["create"][1]["new_contract"]
    assert differences("create", *answers["create"]) == ["create.new_contract: it is missing"]
    body = {"error": "another"}
    assert len(differences("wrong-key", 401, body)) == 2


def planted(value, secret):
    """Every value replaced by a secret of its type; those that say nothing stay."""
    if isinstance(value, dict):
        return {name: planted(inner, secret) for name, inner in value.items()} | {"new": secret}
    if isinstance(value, list):
        return [*(planted(inner, secret) for inner in value), secret]
    return NUMBER if type(value) is int else value if isinstance(value, float | bool) else secret


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", ANSWERS)
def test_no_secret_of_any_field_is_in_a_fixture(answers, name, secret):
    body = planted(answers[name][1], secret)
    text = json.dumps(scrubbed(name, body))
    assert secret in json.dumps(body) and secret not in text
    numbers = {key for key in ("id", "host_id", "new_contract") if f'"{key}": {NUMBER}' in text}
    assert not numbers


@pytest.mark.parametrize("name", ANSWERS)
def test_a_fixture_still_has_what_the_executor_reads(answers, name):
    status, body = answers[name]
    fixture = scrubbed(name, body)
    assert differences(name, status, fixture) == []
    if name == "show":
        kept = ("actual_status", "dph_total", "is_bid")
        assert [fixture["instances"][k] for k in kept] == [body["instances"][k] for k in kept]
        assert vast.read_instance(fixture["instances"]).status == "running"
