"""Fixtures of the tests of this plugin."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("busy machines", deadline=None)  # how long an example takes is no promise
settings.load_profile("busy machines")


@pytest.fixture
def fake():
    """A fake Vast without machines; its clock stands still but for `advance`."""
    from fakes.vast import FakeVast

    with FakeVast(time_scale=0, limits=False, machines=False) as fake:
        yield fake


@pytest.fixture
def client(fake):
    """A client of that fake."""
    from fakes.client import Client

    return Client(fake)


@pytest.fixture
def fake_vast():
    """A fake Vast with machines, one of its minutes per second; nothing of it is left."""
    from fakes.vast import FakeVast, what_is_missing

    if missing := what_is_missing():
        pytest.skip(missing)
    with FakeVast(time_scale=60, limits=False) as fake:
        yield fake


@pytest.fixture
def local_machine(tmp_path, monkeypatch):
    """The root of a machine without a network, and the transport to it; only rsync runs there."""
    from snakemake_executor_plugin_vast.machine.transport import Keyring, Transport

    root, programs = tmp_path / "machine", tmp_path / "bin"
    root.mkdir()
    programs.mkdir()
    (programs / "ssh").symlink_to(Path(__file__).parent / "vast_support/local_machine.py")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MACHINE", str(root))
    keys = Keyring(tmp_path / "keys")
    yield root, Transport(keys, "m", ("host", 22))
    keys.forget()
