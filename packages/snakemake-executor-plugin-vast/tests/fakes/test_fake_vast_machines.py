"""Promises of the fake Vast's machines: other computers, reached by ssh, that can be lost."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from fakes.driver import PATIENCE, REQUEST, Driver
from fakes.vast import FakeVast, what_is_missing
from fakes.vast.machine import faketime

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=str(what_is_missing())),
]
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def fake():
    """Stands still; at its end no process of a machine may be left."""
    with FakeVast(time_scale=0, limits=False) as fake:
        yield fake
        pids = [pid for i in fake.world.live() for pid in i.machine.pids()]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def driver(fake, tmp_path):
    return Driver(fake, tmp_path)


# ---- another computer ----------------------------------------------------------------------------


def test_a_machine_sees_nothing_of_the_driver_nor_of_its_neighbour(driver, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_DRIVER", "1")
    (tmp_path / "secret").write_text("of the driver")
    first, second = driver.rent(501), driver.rent(504)
    assert driver.once(first, f"ls {tmp_path}")[0] != 0
    driver.ssh(first, f"mkdir -p {tmp_path} && echo own > {tmp_path}/secret")
    assert (tmp_path / "secret").read_text() == "of the driver"
    assert driver.ssh(first, f"cat {tmp_path}/secret") == "own"
    assert driver.once(second, f"cat {tmp_path}/secret")[0] == 1
    assert "SECRET_OF_THE_DRIVER" not in driver.ssh(first, "env; cat /proc/1/environ")
    assert driver.ssh(first, "hostname") == f"C.{first}"
    assert str(os.getpid()) not in driver.ssh(first, "ls /proc").split()
    assert TESTS.joinpath("conftest.py").exists()
    assert driver.once(first, f"cat {TESTS}/conftest.py")[0] == 1
    assert driver.once(first, "touch /usr/x")[0] == 1  # programs are shared, read-only


def test_a_process_above_the_share_of_memory_is_killed(driver):
    """The host has plenty, but this machine has one of its GPUs and so a fraction of its memory."""
    driver.fake.world.offers[501].host_ram = 1000  # MB: 250 for one GPU of four
    number = driver.rent(501)
    fill = "x = b'1' * {}; print('filled', flush=True); import time; time.sleep({})"
    assert driver.ssh(number, f'python3 -c "{fill.format(10**7, 1)}"') == "filled"
    killed = driver.ssh(number, f'python3 -c "{fill.format(4 * 10**8, 60)}"; echo exit $?')
    assert "exit 137" in killed


def test_a_host_without_open_ports_is_reached_by_the_proxy_alone(driver):
    driver.fake.world.offers[501].direct_port_count = 0
    number = driver.rent(501)
    assert driver.api("GET", f"/instances/{number}/")["instances"]["ports"] == {}
    assert driver.ssh(number, "echo proxy") == "proxy"


def test_a_machine_has_the_python_and_the_gpus_that_were_rented(driver):
    number = driver.rent(504, runtype="ssh_proxy")
    assert driver.ssh(number, "python -c 'import sys; print(sys.prefix)'") == sys.prefix
    driver.ssh(number, "python -c 'import yaml'")  # the environment's packages too
    rows = driver.ssh(
        number, "nvidia-smi --query-gpu=index,name,memory.total --format=csv,noheader,nounits"
    )
    assert rows.splitlines() == ["0, NVIDIA RTX 4090, 24564", "1, NVIDIA RTX 4090, 24564"]
    assert driver.ssh(number, "nvidia-smi -L | wc -l") == "2"
    shown = driver.api("GET", f"/instances/{number}/")["instances"]
    assert shown["ports"] == {}  # no direct port was asked for


def test_onstart_knows_the_container_and_logins_do_not(driver, fake):
    number = driver.rent(
        onstart="env > /tmp/env; touch /tmp/done", env={"MINE": "a b", "-p 1:1": 1}
    )
    driver.appears(number, "/tmp/done")
    seen = fake.machine(number).path("/tmp/env").read_text().splitlines()
    wanted = {"CONTAINER_ID": number, "CONTAINER_API_KEY": fake.instance(number).key}
    for name, value in (wanted | {"MINE": "a b", "GPU_COUNT": 1}).items():
        assert f"{name}={value}" in seen
    assert not [line for line in seen if fake.key in line]
    assert "CONTAINER" not in driver.ssh(number, "env") and "MINE" not in driver.ssh(number, "env")


def test_a_machine_can_destroy_itself(driver, fake):
    delete = (
        "import os, urllib.request as r; id, key = os.environ['CONTAINER_ID'], "
        "os.environ['CONTAINER_API_KEY']; "
        f"r.urlopen(r.Request(f'{fake.url}/api/v0/instances/{{id}}/', method='DELETE', "
        "headers={'Authorization': f'Bearer {key}'}))"
    )
    script = f'until [ -e /tmp/go ]; do sleep 0.05; done; python -c "{delete}"'
    number = driver.rent(onstart=script)
    driver.ssh(number, "touch /tmp/go")
    fake.wait(lambda: not fake.instances, PATIENCE)
    assert driver.api("GET", f"/instances/{number}/")["instances"] is None


def test_orphans_are_reaped_and_outlive_their_login(driver, fake):
    number = driver.rent()
    work = "echo $$ > /tmp/pid; until [ -e /tmp/end ]; do sleep 0.05; done"
    driver.ssh(number, f"setsid sh -c '{work}' > /dev/null 2>&1 &")
    driver.appears(number, "/tmp/pid")
    assert driver.ssh(number, "kill -0 $(cat /tmp/pid) && echo alive") == "alive"
    driver.ssh(number, "touch /tmp/end")
    gone = "kill -0 $(cat /tmp/pid) 2>/dev/null || echo gone"
    fake.wait(lambda: "gone" in driver.ssh(number, gone), PATIENCE)


def test_rsync_arrives_and_its_bytes_are_paid(driver, fake, tmp_path):
    number = driver.rent()
    driver.ssh(number, "true")
    (tmp_path / "up").write_bytes(os.urandom(1_000_000))
    ssh, host = driver.options(number)
    before = fake.world.transfers()
    subprocess.run(["rsync", "-e", " ".join(ssh), tmp_path / "up", f"{host}:/root/"], check=True)
    assert fake.machine(number).path("/root/up").read_bytes() == (tmp_path / "up").read_bytes()
    # 0.001 $/GB in
    assert 1e6 <= (fake.world.transfers() - before) * 1e9 / 0.001 < 1.1e6


def test_the_fixture_needs_no_help_to_boot(fake_vast, tmp_path):
    driver = Driver(fake_vast, tmp_path)
    assert driver.ssh(driver.rent(wait=0), "echo here") == "here"


# ---- its life ------------------------------------------------------------------------------------


def test_stop_ends_the_processes_and_keeps_the_disk(driver, fake):
    number = driver.rent(onstart="echo started >> /root/starts; exec sleep 1000")
    driver.ssh(number, "echo kept > /root/file")
    driver.appears(number, "/root/starts")
    pids = fake.machine(number).pids()
    assert len(pids) >= 3
    driver.api("PUT", f"/instances/{number}/", {"state": "stopped"})
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert driver.once(number, "true")[0] == 255
    driver.api("PUT", f"/instances/{number}/", {"state": "running"})
    fake.advance(20)
    assert driver.ssh(number, "cat /root/file") == "kept"  # and the host key is the known one
    fake.wait(lambda: len(driver.ssh(number, "cat /root/starts").split()) == 2, PATIENCE)
    home = fake.machine(number).home
    driver.api("DELETE", f"/instances/{number}/")
    assert not home.exists() and not fake.machine(number).alive


def test_a_login_needs_a_key_that_is_attached(driver, fake):
    number = driver.rent(key=False)

    def denied():
        return "Permission denied" in driver.once(number, "true")[1]

    fake.wait(denied, PATIENCE)
    driver.api("POST", f"/instances/{number}/ssh/", {"ssh_key": driver.public})
    driver.ssh(number, "true")
    fake.forget_keys(number)
    assert denied()
    driver.api("POST", f"/instances/{number}/ssh/", {"ssh_key": driver.public})
    driver.ssh(number, "true", direct=True)
    driver.api("POST", "/ssh/", {"ssh_key": driver.public})  # the account's: on all that follow
    driver.ssh(driver.rent(502, key=False), "true")


def test_keys_that_a_machine_added_itself_are_gone_after_hours(driver, fake):
    """The keys of the account and those that were attached stay, with no newline at the end."""
    own = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAddedByTheMachine"
    number = driver.rent(501, onstart=f"echo '\n{own}' >> ~/.ssh/authorized_keys")
    driver.ssh(number, "until grep -q AddedBy ~/.ssh/authorized_keys; do sleep 0.1; done")
    fake.advance(9 * 3600)
    assert driver.ssh(number, "cat ~/.ssh/authorized_keys; echo .") == f"{driver.public.strip()}."


@pytest.mark.parametrize("says", ["offline", "running"])
def test_a_host_can_vanish_and_come_back(driver, fake, says):
    number = driver.rent()
    driver.ssh(number, "echo kept > /root/file")
    begun, pids = fake.machine(number).path("/tmp/begun"), []

    def vanish():
        pids.extend(fake.machine(number).pids())
        fake.vanish(number, says)

    fake.upon(begun.exists, vanish)
    job = driver.start(number, "touch /tmp/begun; exec sleep 1000")
    assert job.wait(PATIENCE) == 255
    job.communicate()
    fake.wait(lambda: pids and not [p for p in pids if Path(f"/proc/{p}").exists()], PATIENCE)
    assert driver.once(number, "true")[0] == 255
    assert driver.api("GET", f"/instances/{number}/")["instances"]["actual_status"] == says
    fake.come_back(number)
    fake.advance(20)
    assert driver.ssh(number, "cat /root/file") == "kept"


def test_a_host_can_vanish_without_a_word(driver, fake):
    number = driver.rent()
    driver.ssh(number, "true")
    ssh, host = driver.options(number)
    alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"]
    job = subprocess.Popen([*ssh, *alive, host, "touch /tmp/begun; exec sleep 1000"])
    driver.appears(number, "/tmp/begun")
    began = time.monotonic()
    fake.vanish(number, silently=True)
    assert job.wait(PATIENCE) == 255 and time.monotonic() - began > 1  # it was not told


# ---- ssh -----------------------------------------------------------------------------------------


def test_ssh_can_be_refused_at_first(driver, fake):
    fake.fault("boot", ssh_refused=60)
    number = driver.rent(onstart="touch /tmp/up")
    driver.appears(number, "/tmp/up")
    assert "refused" in driver.once(number, "true")[1]
    fake.advance(60)
    driver.ssh(number, "true")


def test_ssh_can_be_lost_while_the_job_goes_on(driver, fake):
    number = driver.rent()
    driver.ssh(number, "true")
    work = "touch /tmp/begun; until [ -e /tmp/end ]; do sleep 0.05; done; touch /tmp/ended"
    job = driver.start(number, f"trap '' HUP PIPE; {work}")
    driver.appears(number, "/tmp/begun")
    fake.cut_ssh(number)
    assert job.wait(PATIENCE) == 255
    job.communicate()
    assert driver.once(number, "true")[0] == 255
    fake.machine(number).path("/tmp/end").touch()
    driver.appears(number, "/tmp/ended")
    fake.mend_ssh(number)
    driver.ssh(number, "true")
    fake.cut_ssh(number, "refuse", ["proxy"])
    driver.ssh(number, "true", direct=True)
    assert driver.once(number, "true")[0] == 255
    fake.cut_ssh(number, "hang", ["direct"])
    ssh, host = driver.options(number, direct=True)
    hangs = subprocess.run([*ssh, "-o", "ConnectTimeout=2", host, "true"], capture_output=True)
    assert hangs.returncode == 255 and b"timed out" in hangs.stderr


# ---- bad machines --------------------------------------------------------------------------------


def test_a_disk_can_be_full(driver, fake):
    fake.fault("boot", disk_mb=8)
    number = driver.rent()
    assert driver.ssh(number, "head -c 1000000 /dev/zero > /root/some; stat -c %s /root/some")
    code, output = driver.once(number, "head -c 20000000 /dev/zero > /root/more")
    assert code == 1 and "No space left on device" in output
    assert fake.machine(number).path("/root/some").stat().st_size == 1_000_000


def test_an_image_can_lack_programs_that_a_locked_apt_does_not_install(driver, fake):
    fake.fault("boot", lacks=["rsync"], apt_lock=60)
    number = driver.rent()
    assert driver.ssh(number, "command -v rsync || echo none; command -v scp") == (
        "none\n/usr/bin/scp"
    )
    install = "apt-get install -qy rsync && rsync --version"
    code, output = driver.once(number, install)
    assert code == 100 and "Could not get lock" in output
    fake.advance(60)
    assert "protocol version" in driver.ssh(number, install)


def test_only_what_lists_and_removes_files_is_executed(driver, fake, tmp_path):
    number = driver.rent()
    driver.ssh(number, f"ln -s {tmp_path} /root/out")
    url = f"{fake.url}/api/v0/instances/command/{number}/"
    for command in ("cat /etc/passwd", "ls root/out", "ls ../..", ""):
        refused = requests.put(url, json={"command": command}, headers=driver.headers, timeout=30)
        assert refused.status_code == 400, command


def test_a_connection_can_trickle_and_the_next_one_does_not(driver, fake):
    number = driver.rent()
    driver.ssh(number, "true")
    fake.trickle(number, after=100_000)
    slow = driver.start(number, "head -c 1000000 /dev/zero")
    fake.wait(lambda: fake.machine(number).proxy.slowed, PATIENCE)
    assert len(driver.ssh(number, "head -c 1000000 /dev/zero")) == 1_000_000
    assert slow.poll() is None
    fake.cut_ssh(number, "reset", ["proxy"])
    slow.communicate(timeout=PATIENCE)


@pytest.mark.skipif(faketime() is None, reason="needs libfaketime")
def test_a_clock_can_be_off(driver, fake):
    fake.fault("boot", clock_offset=-3600)
    number = driver.rent()
    python = "python -c 'import time; print(time.time())'"
    assert abs(float(driver.ssh(number, python)) + 3600 - time.time()) < PATIENCE
    fingerprint = driver.ssh(number, "touch /root/file; stat -c %Y /root/file; date +%s").split()
    assert all(abs(int(seconds) + 3600 - time.time()) < PATIENCE for seconds in fingerprint)


# ---- the fake itself -----------------------------------------------------------------------------


def test_a_killed_fake_leaves_no_machine(tmp_path):
    command = [sys.executable, "-m", "fakes.vast", "--port", "0", "--time-scale", "1000"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, text=True
    )
    settings = dict(process.stdout.readline().split()[1].split("=", 1) for _ in range(2))
    marker = f"/tmp/{uuid.uuid4()}"
    requests.put(
        f"{settings['VAST_URL']}/api/v0/asks/501/",
        json=REQUEST | {"onstart": f"exec tail -f /dev/null {marker} --retry"},
        headers={"Authorization": f"Bearer {settings['VAST_API_KEY']}"},
        timeout=30,
    ).raise_for_status()
    until(lambda: running(marker))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not running(marker))


def running(marker: str) -> bool:
    """Whether a process has `marker` in its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may have ended by now
            if marker in file.read_text():
                return True
    return False


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
