"""The client of RunPod against the fake service, over HTTP on this computer. No machines."""

import json
from dataclasses import replace

import pytest
from fakes.runpod import FakeRunPod
from snakemake_executor_plugin_vast.clock import Clock
from snakemake_executor_plugin_vast.market import runpod, runpod_offers, selection
from snakemake_executor_plugin_vast.market.protocol import (
    AccountRefused,
    LostReply,
    NoKey,
    OfferGone,
    Order,
    Refused,
    Requirements,
    SearchRules,
    Unavailable,
)
from vast_support.stand_ins import ServiceClock

WANTED, RULES = Requirements(disk_gb=40), SearchRules()
ORDER = Order("label-1", "image", 40, "true\n", keep="/study")


@pytest.fixture
def fake():
    with FakeRunPod(time_scale=0, limits=False, machines=False) as fake:
        yield fake


def client_of(fake, key=None):
    return runpod.RunPod(key or fake.key, fake.url, ServiceClock(fake), jitter=lambda: 0.0)


def rent(fake, wait=60.0):
    """A client, and the id of its pod `wait` seconds after the order."""
    client = client_of(fake)
    id = client.create(client.search(WANTED, RULES)[0], ORDER)
    fake.advance(wait)
    return client, id


# ---- offers --------------------------------------------------------------------------------------


def test_an_offer_stands_for_the_free_hosts_of_a_place_with_its_disks_in_the_price(fake):
    found = client_of(fake).search(WANTED, RULES)
    cheap = [(o.location, o.gpus, o.gpu_mem_mb) for o in found if o.gpu_name == "RTX 4090"]
    assert cheap == [("EU-RO-1", 1, 24000.0), ("US-KS-2", 1, 24000.0)]
    # $0.34 for the GPU, $0.10 a GB and month for 40 GB and the 50 GB of the system
    assert found[0].price == pytest.approx(0.34 + 90 * 0.10 / 720)
    assert found[0].many and not found[0].keeps_disk and found[0].machine_id == 0
    assert [o.id for o in found] == [o.id for o in client_of(fake).search(WANTED, RULES)]
    assert len({o.id for o in found}) == len(found)


@pytest.mark.parametrize(
    "facts, rules, names",
    [
        ({"gpu_models": ("A100_SXM4",)}, {}, {"A100 SXM4"}),  # RunPod's A100 SXM
        ({"gpu_models": ("H100_SXM", "H200")}, {}, {"H100 SXM"}),
        ({"gpus": 2}, {}, {"RTX 4090"}),
        ({"gpus": 8}, {}, set()),
        ({"interruptible": True}, {}, set()),
        ({}, {"regions": ("CA",)}, {"H100 SXM"}),  # its 4090 has an old driver
        ({}, {"regions": ("CA",), "cuda": 12.4}, {"H100 SXM", "RTX 4090"}),
        ({}, {"regions": ("CA",), "cuda": 0.0}, {"H100 SXM", "RTX 4090"}),
        ({}, {"regions": ("PL",)}, set()),
    ],
)
def test_offers_meet_the_requirements(fake, facts, rules, names):
    found = client_of(fake).search(replace(WANTED, **facts), replace(RULES, **rules))
    assert {offer.gpu_name for offer in found} == names


def test_what_the_offers_serve_is_what_was_asked_for(fake):
    wanted = replace(WANTED, gpu_models=("A100_SXM4",))
    [offer] = client_of(fake).search(wanted, RULES)
    assert selection.rank([offer], wanted, RULES) == [offer]
    assert selection.serves(offer, 40, False, wanted)


# ---- a pod's life --------------------------------------------------------------------------------


def test_a_pod_runs_is_stopped_with_its_disk_and_ends(fake):
    client, id = rent(fake, wait=0.0)
    [starting] = client.instances("label-")
    assert (starting.status, starting.addresses, starting.id) == ("starting", (), id)
    fake.advance(60.0)
    [running] = client.instances("label-")
    [host] = running.addresses
    assert running.status == "running" and host[1] > 0
    assert running.price == pytest.approx(0.34 + 90 * 0.10 / 720)
    assert not selection.contract_error(running, WANTED, client.search(WANTED, RULES)[0].price)
    client.start(id)  # it runs
    client.stop(id)
    client.stop(id)
    stopped = client.instance(id)
    assert stopped.status == "stopped" and not stopped.addresses
    assert stopped.disk_price == pytest.approx(40 * 0.20 / 720)
    client.start(id)
    fake.advance(60.0)
    assert client.instance(id).status == "running"
    client.reboot(id)
    client.destroy(id)
    client.destroy(id)
    assert client.instance(id) is None and client.instances("") == []


def test_a_pod_has_the_driver_s_folder_on_the_disk_that_outlives_a_stop(fake):
    rent(fake)
    [create] = fake.calls("create")
    assert create.body["mounts"] == {"persistent": {"size": 40, "path": "/study"}}
    assert create.body["gpu"]["minCudaVersion"] == "12.8"
    assert create.body["cloud"] == "SECURE" and create.body["ports"] == ["22/tcp"]
    assert "env" not in create.body and "startSsh" not in create.body


def test_a_contract_that_costs_more_than_its_offer_is_seen(fake):
    fake.fault("create", dearer=1.05)
    client, id = rent(fake)
    expected = client.search(WANTED, RULES)[0].price
    assert "its offer said $0.35" in selection.contract_error(client.instance(id), WANTED, expected)


def test_only_pods_of_the_prefix_are_read_in_an_account_of_many(fake):
    fake.fault("list", times=None, odd=True)
    client, id = rent(fake)
    assert [pod.id for pod in client.instances("label-")] == [id]
    assert client.instances("other-") == []


def test_a_start_that_finds_no_gpu_is_told(fake):
    client, id = rent(fake)
    client.stop(id)
    fake.take(fake.instances[0].offer.id)
    with pytest.raises(Refused, match="not enough free GPUs"):
        client.start(id)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault, kind",
    [
        ({"taken": True}, OfferGone),
        ({"status": 400, "msg": "name: too long"}, Refused),
        ({"status": 401}, AccountRefused),
        ({"status": 402}, AccountRefused),
        ({"status": 403}, Refused),
        ({"status": 422}, Refused),
        ({"status": 429}, Unavailable),
        ({"status": 500}, LostReply),
        ({"drop": True}, LostReply),
        ({"lose_reply": True}, LostReply),
        ({"status": 404, "text": "404 page not found"}, Refused),
        ({"status": 302, "location": "/v2/pods"}, Refused),
    ],
)
def test_what_a_failed_order_means(fake, fault, kind):
    client = client_of(fake)
    offer = client.search(WANTED, RULES)[0]
    fake.fault("create", **fault)
    with pytest.raises(kind) as caught:
        client.create(offer, ORDER)
    assert type(caught.value) is kind and fake.key not in str(caught.value)


@pytest.mark.parametrize("fault", [{"text": "404 page not found"}, {"text": "<html></html>"}])
def test_a_404_of_anybody_but_the_service_ends_no_pod(fake, fault):
    """As of a gateway, or of an API that is retired: a pod that counts as gone would be billed."""
    client, id = rent(fake)
    for point in ("get", "destroy"):
        fake.fault(point, status=404, **fault)
    for call in (client.instance, client.destroy):
        with pytest.raises(Refused):
            call(id)
    assert len(fake.instances) == 1


def test_a_wrong_key_is_told_and_ends_no_pod(fake):
    _, id = rent(fake)
    stranger = client_of(fake, "wrong-key")
    for call in (stranger.instance, stranger.destroy, stranger.start, stranger.stop):
        with pytest.raises(AccountRefused, match="RUNPOD_API_KEY") as caught:
            call(id)
        assert "wrong-key" not in str(caught.value)
    with pytest.raises(AccountRefused):
        stranger.search(WANTED, RULES)


@pytest.mark.parametrize("id", [0, "", "../network-volumes/x", "a/b", "x" * 65])
def test_what_is_no_id_of_a_pod_enters_no_address(fake, id):
    client = client_of(fake)
    for call in (client.destroy, client.stop, client.instance):
        with pytest.raises(Refused, match="no pod of RunPod"):
            call(id)
    assert not fake.requests


def test_the_rate_of_an_account_is_kept():
    with FakeRunPod(time_scale=0, machines=False) as fake:
        client, id = rent(fake)
        for _ in range(70):
            client.instance(id)
            client.instances("label-")
        assert all(request.status < 400 for request in fake.requests)


def test_a_call_that_came_too_early_waits_as_long_as_it_is_told(fake):
    client, id = rent(fake)
    fake.fault("get", status=429)
    before = fake.now
    assert client.instance(id).id == id
    assert fake.now - before >= 12.0


# ---- the account, the key ------------------------------------------------------------------------


def test_the_balance_is_read_while_the_older_api_exists(fake):
    assert client_of(fake).credit() == pytest.approx(fake.world.balance)
    fake.fault("user", status=410, text="gone")
    assert client_of(fake).credit() is None


def test_the_key_comes_from_the_environment_alone(tmp_path):
    with pytest.raises(NoKey, match="RUNPOD_API_KEY"):
        runpod.connect({}, tmp_path, Clock())
    assert runpod.connect({"RUNPOD_API_KEY": "k"}, tmp_path, Clock()).url == runpod.URL


def test_a_pod_stops_and_ends_itself_with_its_own_key(fake, monkeypatch):
    client, id = rent(fake)
    pod = {}
    exec(client.machine_control(), pod)
    monkeypatch.setenv("RUNPOD_POD_ID", id)
    monkeypatch.setenv("RUNPOD_API_KEY", "of-no-pod")
    with pytest.raises(OSError, match="401"):
        pod["check"]()
    monkeypatch.setenv("RUNPOD_API_KEY", fake.instances[0].key)
    pod["check"]()
    assert fake.instances[0].status == "RUNNING"
    pod["stop"]()
    assert fake.instances[0].status == "EXITED"
    pod["destroy"]()
    assert not fake.instances
    agents = {request.agent.partition("/")[0] for request in fake.requests}
    assert agents == {"snakemake-executor-plugin-vast"}


def test_a_switch_without_the_right_to_stop_is_seen(fake, monkeypatch):
    client, id = rent(fake)
    pod = {}
    exec(client.machine_control(), pod)
    monkeypatch.setenv("RUNPOD_POD_ID", id)
    monkeypatch.setenv("RUNPOD_API_KEY", fake.instances[0].key)
    fake.fault("state", status=403)
    with pytest.raises(OSError, match="403"):
        pod["check"]()


# ---- odd answers ---------------------------------------------------------------------------------

POD = {"id": "abc", "name": "n", "status": "RUNNING", "cost": 0.4, "disk": 50}
POD |= {"mounts": {"persistent": {"size": 20, "path": "/w"}}, "runtime": None}


@pytest.mark.parametrize(
    "odd, status",
    [
        ({}, "running"),
        ({"status": "HIBERNATED"}, "offline"),
        ({"status": "ERROR"}, "stopped"),
        ({"cost": "free"}, "offline"),
        ({"cost": float("nan")}, "offline"),
        ({"ssh": {"direct": {"host": "h", "port": "x"}}}, "running"),
        ({"runtime": {"ports": [{"private": 22, "type": "tcp", "ip": None}]}}, "running"),
        ({"mounts": None}, "running"),
        ({"id": 7}, "offline"),
        ({"id": "../x"}, "offline"),
    ],
)
def test_a_row_of_any_form_can_be_read(odd, status):
    found = runpod.read_row(POD | odd)
    assert found.status == status and found.label == "n" and not found.addresses
    assert found.id == ("abc" if "id" not in odd else 0)


def test_a_pod_in_error_may_be_billed_in_full():
    assert runpod.read_row(POD | {"status": "ERROR"}).disk_price == 0.4
    assert runpod.read_row(POD | {"status": "ERROR"}).failed


def test_odd_entries_of_the_catalogue_hide_no_other():
    place = {"id": "EU-RO-1", "name": "x", "availability": "LOW"}
    gpu = {"id": "NVIDIA L4", "name": "L4", "manufacturer": "NVIDIA", "memory": 24}
    gpu |= {"maxCount": {"secure": 8}, "price": {"secure": 0.4}}
    odd = [None, {}, {"id": "a", "availability": "NONE"}, {"id": "b", "availability": 7}, place]
    [offer] = runpod_offers.read_offers(gpu | {"dataCenters": odd}, WANTED, RULES)
    assert offer.location == "EU-RO-1" and json.loads(offer.reference)["gpu"] == "NVIDIA L4"
    assert runpod_offers.read_offers(gpu, WANTED, RULES) == []  # it is nowhere now
