"""Promises of the fake Vast's faults: each strikes where, when and as often as it was planned."""

import pytest
import requests

pytestmark = pytest.mark.e2e
HOUR = 3600


def test_an_answer_can_be_refused_so_many_times(client, fake):
    fake.fault("create", status=429, times=2)
    fake.fault("create", status=500)
    assert [client.create().status_code for _ in range(4)] == [429, 429, 500, 200]
    (number,) = [instance.id for instance in fake.instances]
    fake.fault("destroy", status=500, times=3)
    assert [client.destroy(number).status_code for _ in range(4)] == [500, 500, 500, 200]
    assert [call.status for call in fake.calls("destroy")] == [500, 500, 500, 200]


def test_an_offer_can_be_taken_between_search_and_create(client, fake):
    fake.fault("create", taken=True)
    assert client.create(501).json()["error"] == "no_such_ask"
    assert client.create(501).status_code == 410
    assert 501 not in [offer["id"] for offer in client.search()]


def test_a_lost_reply_has_rented_all_the_same(client, fake):
    fake.fault("create", lose_reply=True)
    with pytest.raises(requests.ConnectionError):
        client.create(label="lost")
    (row,) = client("GET", "/v1/instances/").json()["instances"]
    assert row["label"] == "lost"


def test_a_dropped_request_has_done_nothing(client, fake):
    fake.fault("create", drop=True)
    with pytest.raises(requests.ConnectionError):
        client.create()
    assert fake.instances == []


def test_two_may_rent_one_offer_and_one_of_them_never_boots(client, fake):
    first = client.rent(501)
    fake.fault("create", double=True)
    second = client.rent(501)
    fake.advance(HOUR)
    assert client.get(first)["actual_status"] == "running"
    assert client.get(second)["actual_status"] is None


def test_the_api_can_be_down_for_a_while(client, fake):
    fake.fault("api", status=503, seconds=300)
    assert client("GET", "/v1/instances/").status_code == 503
    fake.advance(299)
    assert client.create().status_code == 503
    fake.advance(1)
    assert client("GET", "/v1/instances/").status_code == 200
    fake.fault("api", times=None, drop=True)
    with pytest.raises(requests.ConnectionError):
        client.search()
    fake.clear()
    client.search()


def test_lists_can_lag(client, fake):
    fake.fault("list", times=None, lag=30)
    number = client.rent()

    def listed():
        return [row["id"] for row in client("GET", "/v1/instances/").json()["instances"]]

    assert listed() == []
    fake.advance(31)
    assert listed() == [number]
    client.destroy(number)
    assert listed() == [number] and client.get(number) is None
    fake.advance(31)
    assert listed() == []


@pytest.mark.parametrize(
    "effect, status, message",
    [
        ({"stuck": "null"}, None, None),
        ({"stuck": "created"}, "created", None),
        ({"stuck": "loading"}, "loading", "pytorch/pytorch: Pulling from registry"),
        ({"status_msg": "manifest unknown"}, "loading", "manifest unknown"),
        ({"status_msg": "OCI runtime create failed", "status": "exited"}, "exited", "OCI runtime"),
    ],
)
def test_a_boot_can_fail(client, fake, effect, status, message):
    fake.fault("boot", **effect)
    bad, good = client.rent(501), client.rent(502)
    fake.advance(HOUR)
    shown = client.get(bad)
    assert shown["actual_status"] == status
    assert shown["status_msg"] == message or shown["status_msg"].startswith(message)
    assert client.get(good)["actual_status"] == "running"
    assert fake.world.spent_on["gpu"] == pytest.approx(0.32 * (HOUR - 20) / HOUR)


def test_a_fault_that_does_not_exist_is_an_error(fake):
    with pytest.raises(ValueError, match="no such point"):
        fake.fault("craete", status=500)
    with pytest.raises(ValueError, match="effects at"):
        fake.fault("create", stuck="loading")
    with pytest.raises(ValueError, match="effects at"):
        fake.fault("create")


def test_faults_can_be_set_over_http(client, fake):
    def control(name, **body):
        return requests.post(f"{fake.url}/fake/{name}", json=body, timeout=20)

    assert control("fault", point="create", status=500).ok
    assert client.create().status_code == 500
    number = client.rent()
    assert control("advance", seconds=20).ok
    assert control("vanish", number=number, says="unknown").ok
    (shown,) = requests.get(f"{fake.url}/fake/", timeout=20).json()["instances"]
    assert shown["actual_status"] == "unknown"
    assert control("fault", point="nowhere", status=1).status_code == 400
    assert control("close").status_code == 404


def test_answers_can_be_html_or_lead_elsewhere(client, fake):
    fake.fault("list", status=502, text="<html>Bad Gateway</html>")
    html = client("GET", "/v1/instances/")
    assert html.headers["Content-Type"] == "text/html" and html.text.startswith("<html>")
    fake.fault("list", status=302, location="/api/v0/users/current/")
    assert client("GET", "/v1/instances/").json()["username"] == "tester"


def test_a_list_can_hold_rows_that_are_hardly_readable(client, fake):
    number = client.rent()
    fake.fault("list", odd=True)
    rows = client("GET", "/v1/instances/").json()["instances"]
    assert None in rows and [row["ports"] for row in rows if row and row["id"] == number] == [
        [22, 8080]
    ]
    [row] = client("GET", "/v1/instances/").json()["instances"]
    assert row["id"] == number and row["ports"] == {}


def test_a_host_can_be_slow(client, fake):
    fake.fault("boot", slow=600)
    number = client.rent()
    fake.advance(600)
    assert client.get(number)["actual_status"] == "loading"
    fake.advance(20)
    assert client.get(number)["actual_status"] == "running"
