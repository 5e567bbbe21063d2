"""Vast.ai's official client runs against the fake: what it prints, and what the fake then holds.

pip installs it from the package registry into an environment of its own. Its Python cannot reach
any other computer.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from fakes.client import Client
from fakes.vast import FakeVast, what_is_missing
from vast_support.programs import ONLY_THIS_COMPUTER, environment_with

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
VERSION = "1.9.1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOfTheAccount"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with nothing but the client."""
    folder = tmp_path_factory.mktemp("official")
    python = environment_with(f"vastai=={VERSION}", folder)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "sitecustomize.py").write_text(ONLY_THIS_COMPUTER)
    return python


class Official:
    """A fake, and the client's programs that call it."""

    def __init__(self, fake: FakeVast, python: Path, home: Path):
        self.fake, self.python, self.by_hand = fake, python, Client(fake)
        own = {"HOME": str(home), "COLUMNS": "200", "PATH": os.environ["PATH"]}
        self.environment = own | fake.environment

    def start(self, *command: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *arguments: str) -> str:
        """What `vastai` prints."""
        done = self.start(self.python.with_name("vastai"), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def rent(self, **request) -> int:
        """A machine that runs, rented without the client."""
        number = self.by_hand.rent(501, **request)
        self.is_running(number)
        return number

    def is_running(self, number: int) -> None:
        self.fake.wait(lambda: self.fake.instance(number).actual_status == "running", 60)


@pytest.fixture
def official(python, tmp_path):
    with FakeVast(time_scale=60, limits=False) as fake:
        yield Official(fake, python, tmp_path)


def test_the_client_reaches_no_other_computer(official):
    """Else a mistake in this file could rent a real machine."""
    vastai = official.python.with_name("vastai")
    done = official.start(vastai, "--url", "https://console.vast.ai", "show", "instances")
    assert done.returncode and "console.vast.ai is another computer" in done.stderr
    assert official.start(vastai, "--version").stdout.strip() == VERSION


# ---- the ten commands ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--new",)], ids=["as before", "new"])
def test_search_offers_with_filters(official, form):
    query = "num_gpus=1 gpu_name=RTX_4090 gpu_ram>=24 reliability>=0.98 geolocation in [PL,US]"
    query += " compute_cap>=890 driver_version>=535.86.05 cuda_vers>=12.1 duration>24"
    printed = official.run("search", "offers", *form, "-o", "dph_total-", query)
    rows = [line.split() for line in printed.splitlines() if "RTX_4090" in line]
    assert [row[2] for row in rows] == ["503", "501"]
    assert "[]" in official.run("search", "offers", *form, "--raw", "compute_cap>900 num_gpus=1")
    assert len(official.fake.calls("search")) == 2 and not official.fake.instances


def test_create_instance(official):
    order = "--image pytorch/pytorch --disk 20 --ssh --direct --label mine --bid_price 0.2".split()
    printed = official.run("create", "instance", "501", *order, "--onstart-cmd", "echo hello")
    [instance] = official.fake.instances
    assert printed.startswith("Started. ") and f"'new_contract': {instance.id}" in printed
    assert (instance.offer.id, instance.price, instance.disk) == (501, 0.2, 20)
    assert instance.request["label"] == "mine" and instance.request["onstart"] == "echo hello"


def test_show_instances(official):
    number = official.rent(label="mine", disk=20)
    printed = official.run("show", "instances", "--no-color", "--cols", "id,status,label")
    assert str(number) in printed and "running" in printed and "mine" in printed
    [row] = json.loads(official.run("show", "instances", "--raw"))
    assert (row["id"], row["label"], row["actual_status"]) == (number, "mine", "running")
    assert "RTX_4090" in official.run("show", "instance", str(number))
    assert [instance.id for instance in official.fake.instances] == [number]


def test_show_ssh_keys(official):
    assert official.run("show", "ssh-keys").strip() == "[]"
    official.run("create", "ssh-key", KEY)
    [row] = json.loads(official.run("show", "ssh-keys", "--raw"))
    assert row["public_key"] == KEY and official.fake.world.account_keys == [KEY]


def test_logs(official):
    number = official.rent(onstart="for n in 1 2 3; do echo line $n; done")
    log = official.fake.machine(number).path("/var/log/onstart.log")
    official.fake.wait(lambda: log.exists() and "line 3" in log.read_text(), 60)
    assert official.run("logs", str(number)) == "line 1\nline 2\nline 3\n"
    assert official.run("logs", str(number), "--tail", "1") == "line 3\n"


def test_execute(official):
    """In this version the command itself fails at the answer, after the machine has done it."""
    number = official.rent()
    root = official.fake.machine(number).path("/root")
    official.fake.wait(root.exists, 60)
    (root / "file").touch()
    code = f"import vastai; print(vastai.VastAI().execute({number}, 'ls -1 root'))"
    assert "file" in official.start(official.python, "-c", code).stdout.splitlines()
    done = official.start(
        official.python.with_name("vastai"), "execute", str(number), "rm root/file"
    )
    assert "AttributeError" in done.stderr and not (root / "file").exists()
    assert len(official.fake.calls("execute")) == 2 and len(official.fake.api.results) == 2


def test_stop_instance(official):
    number = official.rent()
    assert official.run("stop", "instance", str(number)) == f"stopping instance {number}.\n"
    [instance] = official.fake.instances
    states = instance.actual_status, instance.intended_status, instance.cur_state
    assert states == ("exited", "stopped", "stopped") and not instance.machine.alive


def test_start_instance(official):
    number = official.rent()
    official.by_hand.state(number, "stopped")
    assert official.run("start", "instance", str(number)) == f"starting instance {number}.\n"
    official.is_running(number)
    assert official.fake.instance(number).boots == 2


def test_change_bid(official):
    number = official.rent(price=0.20)
    printed = official.run("change", "bid", str(number), "--price", "0.25")
    assert printed == "Per gpu bid price changed\n"
    assert official.fake.instance(number).price == 0.25


def test_destroy_instance(official):
    number = official.rent()
    assert (
        "Aborted." in official.run("destroy", "instance", str(number)) and official.fake.instances
    )
    printed = official.run("destroy", "instance", str(number), "--yes")
    assert printed == f"destroying instance {number}.\n" and not official.fake.instances


# ---- others --------------------------------------------------------------------------------------


def test_recycle_instance(official):
    number = official.rent()
    file = official.fake.machine(number).path("/root/file")
    official.fake.wait(file.parent.exists, 60)
    file.touch()
    assert official.run("recycle", "instance", str(number)) == f"Recycling instance {number}.\n"
    official.is_running(number)
    official.fake.wait(file.parent.exists, 60)
    assert not file.exists()


def test_show_deposit_and_invoices(official):
    number = official.rent()
    official.fake.advance(3600)
    assert json.loads(official.run("show", "deposit", str(number)))["refundable_deposit"] == 0
    until = ("--end_date", "2100-01-01")  # the clock of the fake is ahead
    rows = json.loads(official.run("show", "invoices", "--raw", *until))
    charged = {row["description"] for row in rows if row["type"] == "charge"}
    assert f"Instance {number} gpu charge: hours * $/hr" in charged
    assert [row["amount"] for row in rows if row["type"] == "payment"] == ["100.000"]
