"""RunPod's official client runs against the fake: what it returns, and what the fake then holds.

pip installs it from the package registry into an environment of its own. Its Python cannot reach
any other computer.
"""

import json
import os
import subprocess

import pytest
from fakes.runpod import FakeRunPod
from fakes.vast import what_is_missing
from vast_support.programs import ONLY_THIS_COMPUTER, environment_with

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
VERSION = "1.12.0"
GPU = "NVIDIA GeForce RTX 4090"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with nothing but the client."""
    if given := os.environ.get("RUNPOD_CLIENT_PYTHON"):
        return given
    return environment_with(f"runpod=={VERSION}", tmp_path_factory.mktemp("official"))


@pytest.fixture
def fake():
    with FakeRunPod(time_scale=60, limits=False) as fake:
        yield fake


@pytest.fixture
def call(python, fake, tmp_path):
    """Calls a function of the client; what it returns, or the message of its error."""

    def call(function, *arguments, **options):
        code = (
            f"{ONLY_THIS_COMPUTER}\nimport json, os, sys, runpod\n"
            "runpod.api_key = os.environ['RUNPOD_API_KEY']\n"
            "name, arguments, options = json.loads(sys.argv[1])\n"
            "try: found = getattr(runpod, name)(*arguments, **options)\n"
            "except runpod.error.RunPodError as error: found = f'{type(error).__name__}: {error}'\n"
            "print('FOUND' + json.dumps(found))"
        )
        own = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]} | fake.environment
        asked = json.dumps([function, arguments, options])
        done = subprocess.run(
            [python, "-c", code, asked], env=own, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("FOUND")[2])

    return call


def test_a_pod_is_rented_stopped_resumed_and_ended(call, fake):
    assert GPU in [gpu["id"] for gpu in call("get_gpus")]
    assert call("get_gpu", GPU)["securePrice"] == 0.34
    made = call(
        "create_pod", "mine", "image", GPU, ports="22/tcp", container_disk_in_gb=20,
        volume_in_gb=20, volume_mount_path="/workspace", env={"A": "1"},
    )  # fmt: skip
    [pod] = fake.instances
    assert made["id"] == fake.name_of(pod) and made["env"] == ["A=1"]
    fake.wait(lambda: pod.status == "RUNNING", 60)
    [listed] = call("get_pods")
    [port] = listed["runtime"]["ports"]
    assert (listed["name"], listed["desiredStatus"]) == ("mine", "RUNNING")
    assert (port["privatePort"], port["publicPort"]) == (22, pod.machine.direct.port)
    assert call("stop_pod", made["id"])["desiredStatus"] == "EXITED"
    assert call("get_pod", made["id"])["runtime"] is None
    assert call("resume_pod", made["id"], 1)["desiredStatus"] == "RUNNING"
    call("terminate_pod", made["id"])
    assert call("get_pods") == [] and not fake.instances
    assert call("get_user")["networkVolumes"] == []


def test_refusals_are_the_client_s_errors(call, fake):
    for offer in fake.world.offers.values():
        offer.taken = True
    said = call("create_pod", "mine", "image", GPU)
    assert said.startswith("QueryError: There are no longer any instances available")
    assert call("terminate_pod", "nothing") == "QueryError: pod not found"
    fake.world.offers[601].taken = False
    made = call("create_pod", "mine", "image", GPU)
    call("stop_pod", made["id"])
    fake.take(601)
    assert "not enough free GPUs" in call("resume_pod", made["id"], 1)
    fake.api.key = "another"
    assert call("get_pods").startswith("AuthenticationError: Unauthorized")
