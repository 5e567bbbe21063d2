"""Vast.ai as a market: requests, answers, rate limits and errors. No network, no waits."""

import json

import pytest
import requests
from snakemake_executor_plugin_vast.market import http, vast, vast_offers
from snakemake_executor_plugin_vast.market.protocol import (
    AccountRefused,
    LostReply,
    MarketError,
    NoKey,
    Offer,
    OfferGone,
    Order,
    Refused,
    Requirements,
    SearchRules,
    Unavailable,
)
from vast_support.stand_ins import ManualClock

KEY = "0123456789abcdef-secret"
OFFER = Offer(5, 7, "RTX 4090", 1, 24564, 64000, 200, 0.31, 0.15)
ORDER = Order("label", "image", 40, "true")


def client_of(monkeypatch, *replies, **more):
    """A client whose calls get these replies in turn: (status, body) or an exception."""
    left, sent = list(replies), []

    def request(self, method, url, **more):
        sent.append((method, url, more))
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        answer = requests.Response()
        answer.status_code, body = reply
        answer._content = (body if isinstance(body, str) else json.dumps(body)).encode()
        return answer

    monkeypatch.setattr(requests.Session, "request", request)
    client = vast.Vast(KEY, "http://fake", ManualClock(), lambda: 0.0, **more)
    return client, sent


@pytest.mark.parametrize(
    "reply, kind",
    [
        ((404, {"error": "no_such_ask"}), OfferGone),
        ((410, {"error": "no_such_ask"}), OfferGone),
        ((400, {"error": "invalid_args"}), Refused),
        ((400, {"error": "no_such_ask"}), OfferGone),
        ((404, {"error": "auth_error"}), AccountRefused),
        ((410, {"error": "deprecated_endpoint"}), AccountRefused),
        ((400, {"error": "insufficient_credit"}), AccountRefused),
        ((404, "<html>Not Found</html>"), Refused),
        ((429, "API requests too frequent: endpoint threshold=4.5"), Unavailable),
        ((500, "Internal Server Error"), LostReply),
        ((200, "no json"), LostReply),
        ((200, ["no", "object"]), LostReply),
        ((200, {"success": True}), LostReply),
        (requests.ReadTimeout("slow"), LostReply),
        (requests.ConnectionError("cut"), LostReply),
    ],
)
def test_a_create_is_sent_once_and_its_failure_says_what_is_known(monkeypatch, reply, kind):
    client, sent = client_of(monkeypatch, reply)
    with pytest.raises(MarketError) as caught:
        client.create(OFFER, ORDER)
    assert type(caught.value) is kind and len(sent) == 1


def test_what_may_be_repeated_is_with_growing_waits(monkeypatch):
    down = [(503, "busy"), requests.ConnectionError("cut"), (429, "too frequent")]
    client, sent = client_of(monkeypatch, *down, (200, {"offers": [{"id": 3}]}))
    assert [offer.id for offer in client.search(Requirements(), SearchRules())] == [3]
    assert len(sent) == 4 and client.clock.time > 2 + 4 + 8


def test_it_gives_up_in_the_end(monkeypatch):
    client, sent = client_of(monkeypatch, *[(503, "busy")] * http.TRIES)
    with pytest.raises(Unavailable):
        client.instances("")
    assert len(sent) == http.TRIES


def test_calls_keep_their_distance(monkeypatch):
    client, _ = client_of(monkeypatch, *[(200, {"new_contract": 1})] * 3)
    for _ in range(3):
        client.create(OFFER, ORDER)
    assert client.clock.time == pytest.approx(2 * 4.5 / 0.9)


def test_all_pages_of_the_list_are_read(monkeypatch):
    pages = [
        (200, {"instances": [{"id": 1, "label": ""}], "next_token": "t"}),
        (200, {"instances": [{"id": 2, "label": ""}]}),
    ]
    client, sent = client_of(monkeypatch, *pages)
    assert [instance.id for instance in client.instances("")] == [1, 2]
    assert sent[1][2]["params"]["after_token"] == "t"


def test_a_list_without_end_is_no_list(monkeypatch):
    """Whoever reads it for ever ends no machine, not even by its id."""
    page = (200, {"instances": [], "next_token": "t"})
    client, sent = client_of(monkeypatch, *[page] * 1000)
    with pytest.raises(Unavailable, match="has no end"):
        client.instances("")
    assert len(sent) == vast.PAGES


OURS = {"id": 1, "label": "p-1-1", "actual_status": "running", "dph_total": 0.1}
OURS |= {
    "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}]},
    "public_ipaddr": "1.2.3.4",
}
ODD_FIELDS = [
    {"ports": [8080, 8081]},
    {"ports": {"22/tcp": [{"HostIp": "0.0.0.0"}]}},
    {"ports": {"22/tcp": [{"HostPort": "none"}]}},
    {"ports": {"22/tcp": None}, "public_ipaddr": None, "ssh_port": "?"},
    {"id": None},
    {"id": 1e999},
    {"machine_id": "unknown"},
    {"machine_id": 1e999},
    {"ports": {"22/tcp": [{"HostPort": 1e999}]}},
    {"dph_total": {}},
    {"status_msg": 5, "actual_status": []},
]


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=str)
def test_one_odd_row_of_ours_hides_no_machine(monkeypatch, odd):
    rows = [OURS | {"id": 2, "label": "p-2-1"} | odd, OURS]
    client, _ = client_of(monkeypatch, (200, {"instances": rows}))
    found = {instance.label: instance for instance in client.instances("p-")}
    assert found["p-1-1"].addresses == (("1.2.3.4", 40022),)
    assert found["p-2-1"].id == (2 if "id" not in odd else 0), "it must be possible to end it"


ODD_NUMBERS = [1e999, float("nan"), -1.0, 10**400, "1", [], None, True]


@pytest.mark.parametrize("odd", ODD_NUMBERS, ids=lambda n: str(n)[:9])
def test_an_odd_price_of_a_disk_counts_nothing_and_changes_no_status(monkeypatch, odd):
    """It goes into the ledger, whose sums one such number would spoil for ever."""
    client, _ = client_of(
        monkeypatch,
        (200, {"instances": [OURS | {"storage_total_cost": odd}]}),
        (200, {"credit": odd}),
    )
    [found] = client.instances("p-")
    assert found.disk_price == 0.0 and found.status == "running"
    assert client.credit() is None


class Unread(dict):
    """A row of which only the label may be read."""

    def get(self, name, default=None):
        assert name == "label", f"{name} of another person's machine was read"
        return super().get(name, default)

    __getitem__ = get


STRANGERS = ["of somebody else", "q-p-1", None, 5, ["p-1"], {"p-": 1}]


@pytest.mark.parametrize("label", STRANGERS, ids=str)
def test_rows_of_other_people_are_not_read(monkeypatch, label):
    rows = [Unread(OURS | {"label": label}), Unread(), None, 5, "p-1-1", OURS]
    client, _ = client_of(monkeypatch, (200, {"instances": rows}))
    assert [instance.label for instance in client.instances("p-")] == ["p-1-1"]


@pytest.mark.parametrize("body", ['{"instances": ' + "[" * 99999, "[" * 99999])
def test_an_answer_that_is_nested_without_end_is_no_answer(monkeypatch, body):
    client, _ = client_of(monkeypatch, *[(200, body)] * (2 * http.TRIES + 1))
    for call in (client.instances, lambda: client.search(Requirements(), SearchRules())):
        with pytest.raises(Unavailable, match="no JSON object"):
            call()
    with pytest.raises(LostReply):
        client.create(OFFER, ORDER)


def test_a_list_that_is_none_is_no_empty_list(monkeypatch):
    """An empty list tells that all machines have ended."""
    client, _ = client_of(monkeypatch, (200, {"instances": None}))
    with pytest.raises(Unavailable, match="a list was expected"):
        client.instances("")


@pytest.mark.parametrize("answer", [{}, {"id": None}, {"id": "x"}, [{"id": 5}], 5, "gone", [], 0])
def test_an_instance_that_cannot_be_read_is_not_gone(monkeypatch, answer):
    """Whoever counts it as gone leaves it to be billed."""
    client, _ = client_of(monkeypatch, (200, {"instances": answer}))
    try:
        assert client.instance(5) is not None
    except Unavailable as error:
        assert "/api/v0/instances/5/" in str(error)
    client, _ = client_of(monkeypatch, (200, {"instances": None}))
    assert client.instance(5) is None


def test_an_answer_without_an_instance_does_not_say_that_it_is_gone(monkeypatch):
    client, _ = client_of(monkeypatch, (200, {"success": True}))
    with pytest.raises(Unavailable, match="an instance or null was expected"):
        client.instance(5)


@pytest.mark.parametrize(
    "odd", [None, 5, {}, {"id": "x"}, {"id": 4, "gpu_ram": [1]}, {"id": 1e999}]
)
def test_one_odd_offer_hides_no_other(monkeypatch, odd):
    client, _ = client_of(monkeypatch, (200, {"offers": [odd, {"id": 3}]}))
    assert [offer.id for offer in client.search(Requirements(), SearchRules())] == [3]


@pytest.mark.parametrize("number", [None, "x", [5], 1e999])
def test_an_order_whose_answer_names_no_machine_may_have_rented_one(monkeypatch, number):
    client, _ = client_of(monkeypatch, (200, {"new_contract": number}))
    with pytest.raises(LostReply):
        client.create(OFFER, ORDER)


@pytest.mark.parametrize("before", ["bad key ", "x" * 285])  # messages are cut after 300
def test_the_key_is_in_no_message_and_no_argument(monkeypatch, before):
    client, sent = client_of(monkeypatch, (400, {"msg": f"{before}{KEY}"}))
    with pytest.raises(Refused) as caught:
        client.create(OFFER, ORDER)
    assert KEY[:4] not in str(caught.value) and "<key>" in str(caught.value)
    assert KEY not in repr(sent)


def test_no_other_secret_of_an_order_is_in_a_message(monkeypatch):
    """The login of a private registry is sent with it, and the key of the machine comes back."""
    login = "-u me -p secret"
    replies = (400, {"msg": f"bad image_login: {login}"}), (200, {"instance_api_key": "secret"})
    client, _ = client_of(monkeypatch, *replies, image_login=login)
    for _ in replies:
        with pytest.raises(MarketError) as caught:
            client.create(OFFER, ORDER)
        assert "secret" not in str(caught.value)


def test_the_key_is_found_where_the_official_client_puts_it(tmp_path):
    with pytest.raises(NoKey, match="VAST_API_KEY"):
        vast.find_key({}, tmp_path)
    file = tmp_path / ".config/vastai/vast_api_key"
    file.parent.mkdir(parents=True)
    file.write_text("from file\n")
    assert vast.find_key({}, tmp_path) == "from file"
    assert vast.find_key({"VAST_API_KEY": "from env"}, tmp_path) == "from env"


# ---- requests ------------------------------------------------------------------------------------


def test_an_order_has_a_price_if_and_only_if_it_is_a_bid():
    """A bid without a price would rent on demand."""
    bid = Order("label", "image", 40, "true", bid=0.18)
    assert vast_offers.order_body(bid)["price"] == 0.18
    assert "price" not in vast_offers.order_body(ORDER)


def test_requirements_become_a_search():
    wanted = Requirements(2, ("H100_SXM", "A100_SXM4"), 80000, 64000, 121, 5400.0)
    query = vast_offers.search_query(wanted, SearchRules(regions=("PL",)))
    assert query["gpu_name"] == {"in": ["H100 SXM", "A100 SXM4"]}
    assert query["geolocation"] == {"in": ["PL"]} and query["allocated_storage"] == 121
    assert query["duration"] == {"gte": 5400.0} and query["type"] == "on-demand"
    bids = vast_offers.search_query(Requirements(interruptible=True), SearchRules())
    assert bids["type"] == "bid" and "dph_total" not in bids


# ---- answers -------------------------------------------------------------------------------------


def instance(**facts):
    return vast.read_instance({"id": 5, "label": "x", "dph_total": 0.2, "is_bid": True, **facts})


def test_a_direct_address_comes_before_the_proxy():
    ports = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40022"}]}
    facts = {"public_ipaddr": "1.2.3.4", "ports": ports, "ssh_host": "ssh5.vast.ai"}
    found = instance(**facts, ssh_port=12345).addresses
    assert found == (("1.2.3.4", 40022), ("ssh5.vast.ai", 12345))


@pytest.mark.parametrize(
    "status, expected",
    [
        (None, "starting"),
        ("loading", "starting"),
        ("running", "running"),
        ("stopped", "stopped"),
        ("exited", "stopped"),
        ("frozen", "stopped"),
        ("offline", "offline"),
        ("unknown", "offline"),
    ],
)
def test_a_status_that_vast_names(status, expected):
    assert instance(actual_status=status).status == expected


@pytest.mark.parametrize(
    "actual, intended, current, following, expected",
    [
        ("running", "running", "running", "running", "running"),
        ("running", "running", "stopped", "running", "stopped"),  # outbid, and not yet listed so
        ("running", "stopped", "running", "stopped", "stopped"),  # is about to be stopped
        ("running", "running", "running", "stopped", "stopped"),
        ("running", "stopped", "unloaded", "stopped", "stopped"),
        ("loading", "stopped", "stopped", "stopped", "stopped"),  # stopped before it was up
        ("exited", "stopped", "stopped", "stopped", "stopped"),
        ("exited", "running", "running", "running", "stopped"),  # the container ended by itself
        ("scheduling", "running", "stopped", "running", "starting"),  # waits for its GPU
        (None, "running", "stopped", "running", "starting"),
        ("offline", "running", "running", "running", "offline"),
    ],
)
def test_a_contract_without_its_gpu_is_stopped_whatever_its_container(
    actual, intended, current, following, expected
):
    contract = {"intended_status": intended, "cur_state": current, "next_state": following}
    assert instance(actual_status=actual, **contract).status == expected


@pytest.mark.parametrize(
    "message, failed",
    [
        ("Error response from daemon: toomanyrequests: pull rate limit", True),
        ("OCI runtime create failed: nvidia-container-cli: ...", True),
        ("pytorch/pytorch: Pulling from registry", False),
        ("success, running pytorch/pytorch/ssh", False),
    ],
)
def test_messages_of_machines_that_never_start(message, failed):
    assert instance(status_msg=message).failed is failed


def test_a_machine_ends_itself_with_the_key_of_its_container(monkeypatch):
    """The module that Vast installs on a machine, run here."""
    calls = []
    monkeypatch.setenv("CONTAINER_ID", "5")
    monkeypatch.setenv("CONTAINER_API_KEY", "container-key")

    class Answer:
        def read(self):
            return b""

    def urlopen(request, timeout):
        headers = request.headers["Authorization"]
        calls.append((request.get_method(), request.full_url, request.data, headers))
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    module = {}
    exec(vast.Vast(KEY, "http://fake").machine_control(), module)
    module["stop"]()
    module["destroy"]()
    url, key = "http://fake/api/v0/instances/5/", "Bearer container-key"
    assert calls == [("PUT", url, b'{"state": "stopped"}', key), ("DELETE", url, b"{}", key)]
