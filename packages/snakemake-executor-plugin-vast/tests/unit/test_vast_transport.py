"""The connection to a machine, which the machine and the market may use as a weapon. No network."""

import pytest
from snakemake_executor_plugin_vast.machine import transport


@pytest.fixture
def keys(tmp_path):
    keyring = transport.Keyring(tmp_path / "keys")
    yield keyring
    keyring.forget()


@pytest.mark.parametrize("call", ["command", "push", "pull"])
def test_an_address_is_never_read_as_an_option(keys, tmp_path, call):
    """ssh would run the program that such an option names, on this computer."""
    mark = tmp_path / "mark"
    arguments = {"command": "true", "push": [str(tmp_path)], "pull": [str(tmp_path)]}
    with pytest.raises(transport.Unreachable):
        machine = transport.Transport(keys, "m", (f"-oProxyCommand=touch {mark}", 22), 5.0)
        getattr(machine, call)(arguments[call])
    assert not mark.exists()


@pytest.mark.parametrize(
    "label, address",
    [
        ("m", ("host name", 22)),
        ("m", ("::1", 22)),
        ("m", ("user@host", 22)),
        ("m", ("", 22)),
        ("m", ("host", 0)),
        ("m", ("host", 65536)),
        ("m", ("host\n", 22)),
        ("../m", ("host", 22)),
        ("m%h", ("host", 22)),
    ],
)
def test_only_a_plain_label_host_and_port_reach_ssh(keys, label, address):
    with pytest.raises(transport.Unreachable, match="were expected"):
        transport.Transport(keys, label, address)


def test_ssh_here_reads_every_option_that_is_sent(keys):
    transport.Transport(keys, "check", ("localhost", 22)).check()
