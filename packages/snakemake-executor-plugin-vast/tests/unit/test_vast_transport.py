"""The connection to a machine, which the machine and the market may use as a weapon. No network."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest
from snakemake_executor_plugin_vast.machine import process, transport
from vast_support.programs import needs_rsync


@pytest.fixture
def keys(tmp_path):
    keyring = transport.Keyring(tmp_path / "keys")
    yield keyring
    keyring.forget()


@pytest.mark.parametrize("call", ["command", "push", "pull"])
def test_an_address_is_never_read_as_an_option(keys, tmp_path, call):
    """ssh would run the program that such an option names, on this computer."""
    mark = tmp_path / "mark"
    paths = [str(tmp_path)]
    arguments = {"command": ("true",), "push": (paths, 1e9), "pull": (paths, f"{tmp_path}/in", 1e9)}
    with pytest.raises(transport.Unreachable):
        machine = transport.Transport(keys, "m", (f"-oProxyCommand=touch {mark}", 22), 5.0)
        getattr(machine, call)(*arguments[call])
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


@needs_rsync
def test_ssh_here_reads_every_option_that_is_sent(keys):
    transport.Transport(keys, "check", ("localhost", 22)).check()


@pytest.fixture
def machine(keys, tmp_path, monkeypatch):
    """The transport to a machine on which every command is this shell script."""

    def made(script, **facts):
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return transport.Transport(keys, "m", ("host", 22), **facts)

    return made


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_an_answer_without_end_is_cut_off(machine, stream):
    """It would fill the memory of this computer, and of every job that runs on it."""
    way = machine(f"head -c 100000000 /dev/zero{stream}; exec sleep 60", timeout=2.0)
    tracemalloc.start()
    with pytest.raises(transport.TooMuch, match="more than 16 MiB"):
        way.command("true")
    assert tracemalloc.get_traced_memory()[1] < 4 * process.ANSWER
    tracemalloc.stop()


def test_a_command_that_is_cut_off_leaves_no_process(machine, tmp_path):
    way = machine(f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout=1.0)
    with pytest.raises(transport.Unreachable, match="no answer within 1 s"):
        way.command("true")
    line = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline")
    ends = time.monotonic() + 10  # the kernel ends a killed process when it next runs
    while line.exists() and line.read_bytes():  # a zombie has none
        assert time.monotonic() < ends, "the command's child is still running"
        time.sleep(0.01)


def test_input_and_output_of_any_size_pass_together(machine):
    text = "x" * 5_000_000
    assert machine("cat; exit 0").command("true", text) == text
    assert machine("exec 0<&-; echo done").command("true", text) == "done\n"


def test_an_answer_that_is_nested_without_end_is_no_answer(machine):
    way = machine("head -c 1000000 /dev/zero | tr '\\0' '['")
    with pytest.raises(ValueError, match="answered no JSON object"):
        way.ask("look", "/jobs/1", {})


@pytest.mark.parametrize("way", ["push", "pull"])
@needs_rsync
def test_a_transfer_that_trickles_ends(local_machine, tmp_path, monkeypatch, way):
    """Every byte is a sign of life to rsync, so that alone a trickle would never end."""
    root, connection = local_machine
    connection.stall = 2.0
    monkeypatch.setenv("MACHINE_RATE", "1")
    for place in (root, tmp_path):
        (place / "file").write_bytes(b"x" * 3_000_000)
    with pytest.raises(transport.Unreachable, match="moved less than 1 MiB in 2 s"):
        if way == "pull":
            connection.pull(["/file"], f"{tmp_path}/in", 1e9)
        else:
            connection.push([f"{tmp_path}/file"], 1e9)
    assert not (tmp_path / "in/file").exists()


@pytest.mark.parametrize("way", ["push", "pull"])
@needs_rsync
def test_a_transfer_that_never_stalls_ends_after_the_time_for_what_the_job_declared(
    local_machine, tmp_path, monkeypatch, way
):
    """A machine could send a little more than a stall allows, for ever, and be paid."""
    root, connection = local_machine
    connection.stall = 2.0
    monkeypatch.setattr(process, "LEAST", 1)
    monkeypatch.setenv("MACHINE_RATE", "100")
    for place in (root, tmp_path):
        (place / "file").write_bytes(os.urandom(2_000_000))
    most = 3e6
    monkeypatch.setattr(transport, "SLOWEST", most)
    with pytest.raises(transport.Unreachable, match="the transfer took more than 3 s"):
        if way == "pull":
            connection.pull(["/file"], f"{tmp_path}/in", most)
        else:
            connection.push([f"{tmp_path}/file"], most)


@needs_rsync
def test_a_transfer_is_measured_by_what_it_moves(local_machine, tmp_path):
    root, connection = local_machine
    for n in range(4):
        (root / f"{n}").write_bytes(b"x" * 1_000_000)
    names = [f"/{n}" for n in range(4)]
    connection.pull(names, f"{tmp_path}/in", 4e6)
    with pytest.raises(transport.TooMuch, match="it sent 0.004 GB, 0.0039 GB are allowed"):
        connection.pull(names, f"{tmp_path}/more", 3.9e6)


def test_text_of_the_machine_hides_no_progress():
    """rsync prints messages of the other side, also some that look like its own progress."""
    progress = process.Progress(1e6, 300.0, 3e3)
    real, other = b"\r        2000000  99%", b"\r  5  1%\n" * 1000
    with pytest.raises(process.Excess):
        progress.read(other + real + other)


@needs_rsync
def test_the_saves_of_a_state_add_up(local_machine, tmp_path):
    """Each is small enough; with ever new names they would fill this computer's disk."""
    root, connection = local_machine
    state = str(tmp_path / "state")
    for n in range(3):
        parts = [f"part-{n}" for n in range(n + 1)]
        (root / "copy").mkdir(exist_ok=True)
        for old in (root / "copy").iterdir():
            old.unlink()
        (root / f"copy/part-{n}").write_bytes(b"x" * 400_000)
        if n == 2:
            with pytest.raises(transport.TooMuch, match="it sent 0.0012 GB, 0.001 GB are allowed"):
                connection.pull_state("/copy", state, parts, 1e6)
        else:
            connection.pull_state("/copy", state, parts, 1e6)


@needs_rsync
def test_a_file_of_a_state_that_the_machine_has_removed_is_removed_here(local_machine, tmp_path):
    root, connection = local_machine
    (root / "copy").mkdir()
    (root / "copy/new").write_text("2")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/old").write_text("1")
    connection.pull_state("/copy", str(tmp_path / "state"), ["new"], 1e6)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["new"]


@needs_rsync
def test_what_comes_home_can_be_changed_by_its_owner_alone(local_machine, tmp_path):
    """A machine may give its files any mode; elsewhere they would run as their owner."""
    root, connection = local_machine
    (root / "folder").mkdir()
    (root / "folder/file").touch()
    (root / "folder/file").chmod(0o6767)
    (root / "folder").chmod(0o2777)
    connection.pull(["/folder"], f"{tmp_path}/in", 1e9)
    modes = [(tmp_path / "in" / name).stat().st_mode & 0o7777 for name in ("folder", "folder/file")]
    assert modes == [0o755, 0o745]
