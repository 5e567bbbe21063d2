"""`make smoke-vast` against the fake: it asks, records, says what it paid and leaves no machine."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fakes.vast import FakeVast, what_is_missing
from vast_support.contract import ANSWERS, differences

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
SCALE = 60.0
PATIENCE = 120


class Terminal:
    """The command in a terminal of its own, where somebody answers its question."""

    def __init__(self, fake, folder: Path, answer: str | None = "y", *more: str):
        self.fake, self.folder, self.text = fake, folder, b""
        self.screen, inside = os.openpty()
        command = [sys.executable, "-m", "vast_support.smoke", "--into", str(folder), *more]
        self.process = subprocess.Popen(
            [*command, "--time-scale", str(SCALE)],
            env=os.environ | fake.environment | {"PYTHONPATH": ":".join(sys.path)},
            preexec_fn=partial(os.login_tty, inside),
        )
        os.close(inside)
        self.until("[y/N]")
        assert not fake.instances, "it asks before it rents"
        if answer is not None:
            os.write(self.screen, f"{answer}\n".encode())

    def until(self, words: str) -> None:
        while words not in self.said:
            self.read()

    def read(self) -> None:
        """Read what is on the screen. Raises OSError once the command has ended."""
        self.text += os.read(self.screen, 1 << 16)

    @property
    def said(self) -> str:
        return self.text.decode().replace("\r\n", "\n")

    def ends(self) -> int:
        """Its exit code; what it still prints is in `said`."""
        with contextlib.suppress(OSError):
            while True:
                self.read()
        return self.process.wait(PATIENCE)

    def rented(self):
        """The machine, once it runs."""
        self.fake.wait(lambda: any(i.boots for i in self.fake.instances), PATIENCE)
        return self.fake.instances[0]


@pytest.fixture
def fake():
    with FakeVast(time_scale=SCALE) as fake:
        yield fake


def test_it_records_every_answer_and_says_what_was_paid(fake, tmp_path):
    terminal = Terminal(fake, tmp_path)
    assert terminal.ends() == 0, terminal.said
    assert "All answers are as in the contract" in terminal.said and not fake.instances
    [instance] = fake.world.instances.values()
    [paid] = re.findall(r"At most \$([\d.]+) was paid", terminal.said)
    assert fake.spent <= float(paid) <= 0.5
    asked = [call.body for call in fake.calls("state")]
    assert asked == [{"state": "running"}, {"state": "stopped"}, {"state": "running"}]
    recorded = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert set(recorded) == set(ANSWERS)
    for name, answer in recorded.items():
        assert differences(name, answer["status"], answer["body"]) == []
    everything = "".join(file.read_text() for file in tmp_path.iterdir()) + terminal.said
    for secret in (fake.key, instance.key, instance.machine.direct.address, str(instance.id)):
        assert secret not in everything
    assert instance.request["label"] not in "".join(f.read_text() for f in tmp_path.iterdir())


def test_an_answer_that_differs_is_told(fake, tmp_path):
    fake.fault("list", odd=True)
    terminal = Terminal(fake, tmp_path)
    assert terminal.ends() == 1 and not fake.instances
    assert "ports: a list, an object was expected" in terminal.said


def test_a_dead_man_switch_without_its_rights_is_told(fake, tmp_path):
    """The first change of a state is the one that the switch makes with the machine's own key."""
    fake.fault("state", status=403)
    terminal = Terminal(fake, tmp_path)
    assert terminal.ends() == 1 and not fake.instances
    assert "switch: status 403, 200 was expected" in terminal.said
    assert json.loads((tmp_path / "switch.json").read_text())["status"] == 403
    assert {file.stem for file in tmp_path.iterdir()} == set(ANSWERS), "it goes on"


def test_a_contract_that_is_dearer_than_its_offer_ends_at_once(fake, tmp_path):
    fake.fault("create", dearer=2.0)
    terminal = Terminal(fake, tmp_path)
    assert terminal.ends() == 1 and not fake.instances and not fake.calls("state")
    [paid] = re.findall(r"At most \$([\d.]+) was paid", terminal.said)
    assert "and its offer said" in terminal.said and fake.spent <= float(paid)


@pytest.mark.parametrize("answer", ["n", ""])
def test_without_a_yes_nothing_is_rented(fake, tmp_path, answer):
    terminal = Terminal(fake, tmp_path, answer)
    assert terminal.ends() == 2 and not fake.calls("create")


@pytest.mark.parametrize("lacking", ["a key", "a terminal"])
def test_without_a_key_or_a_terminal_nothing_is_asked_of_the_service(fake, tmp_path, lacking):
    environment = os.environ | fake.environment | {"PYTHONPATH": ":".join(sys.path)}
    if lacking == "a key":
        del environment["VAST_API_KEY"]
    done = subprocess.run(
        [sys.executable, "-m", "vast_support.smoke", "--into", str(tmp_path)],
        env=environment, capture_output=True, text=True, input="y\n",
    )  # fmt: skip
    assert done.returncode == 2 and f"needs {lacking}" in done.stdout and not fake.requests


def test_nothing_is_rented_beyond_the_cap(fake, tmp_path):
    """Two cents pay for twenty minutes at six cents an hour, and no offer is so cheap."""
    with pytest.raises(OSError):  # it ends without a question
        Terminal(fake, tmp_path, "y", "--cap", "0.02")
    assert fake.calls("search") and not fake.calls("create")


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "the terminal is closed", "no reply"])
def test_the_machine_is_destroyed_whatever_happens(fake, tmp_path, how):
    if how == "no reply":
        fake.fault("create", lose_reply=True)
    terminal = Terminal(fake, tmp_path)
    if how != "no reply":
        terminal.rented()
    if how == "Ctrl-C":
        os.write(terminal.screen, b"\x03")
    elif how == "SIGTERM":
        terminal.process.send_signal(signal.SIGTERM)
    elif how == "the terminal is closed":
        os.close(terminal.screen)
    code = terminal.process.wait(PATIENCE) if "closed" in how else terminal.ends()
    assert code and len(fake.world.instances) == 1 and not fake.instances


def test_after_a_kill_the_machine_destroys_itself(fake, tmp_path):
    """Its start script arms the dead-man switch."""
    terminal = Terminal(fake, tmp_path)
    fake.wait(lambda: fake.instances, PATIENCE)
    terminal.process.kill()
    terminal.process.wait()
    assert not fake.calls("destroy")
    fake.wait(lambda: not fake.instances, PATIENCE, "it did not destroy itself")
    assert len(fake.calls("destroy")) == 1
