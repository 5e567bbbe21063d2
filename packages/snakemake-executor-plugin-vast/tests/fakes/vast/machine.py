"""A rented machine: an sshd with a root, a disk and processes of its own, reached over wires."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .network import Wire, free_port

HERE = Path(__file__).parent
NEEDED = ("unshare", "pivot_root", "sshd", "ssh-keygen", "rsync")
BANNER = (
    "Welcome to vast.ai. If authentication fails, try again after a few seconds, "
    "and double check your ssh key.\nHave fun!\n"
)
PASSWD = """\
root:x:0:0:root:/root:/bin/bash
sshd:x:102:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
# As much of apt-get as a start script needs, where an image lacks programs of this computer.
APT_LOCK = "/var/lib/apt-is-locked"
APT_GET = f"""\
#!/bin/sh
if [ -e {APT_LOCK} ]; then
    echo 'E: Could not get lock /var/lib/dpkg/lock-frontend' >&2
    exit 100
fi
[ "$1" = install ] || exit 0
for word in "$@"; do
    case $word in install | -*) ;; *) ln -s "/opt/usr/bin/$word" /usr/bin/ ;; esac
done
"""
# libfaketime hangs whatever waits for a condition when it shifts the monotonic clock as well, and
# when it does not, refuses the call behind Python's sleep.
STEADY = {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
STEADY |= {"PYTHONPATH": "/opt/steady"}
SLEEP = "import select, time\ntime.sleep = lambda s: select.select([], [], [], s)\n"


def what_is_missing() -> str | None:
    """Why no machine can be made here, or None."""
    if os.geteuid() != 0:
        return "fake machines need root (mount and process name spaces)"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in NEEDED if not shutil.which(name, path=path)]
    if missing:
        return f"fake machines need {', '.join(missing)}: apt-get install openssh-server rsync"
    if subprocess.run(["unshare", "-mpiu", "--fork", "true"], capture_output=True).returncode:
        return "fake machines need name spaces, which this kernel or container does not give"
    return None


def faketime() -> Path | None:
    """The library that puts a machine's clock off, if it is installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class Machine:
    """The machine of one instance; its files live below `home` until `destroy`.

    `disk_mb` makes the disk that small (and forgotten on stop), `clock_offset` seconds puts its
    clock off: both are faults, given before the first boot.
    """

    sshd = "service"  # who starts the ssh server: the service, or the container's `command`
    volume: Path | None = None  # what is at `mount` of the machine, beside the disk
    mount = ""

    def __init__(
        self, home: Path, instance_id: int, offer: dict, direct: bool, visible: tuple = ()
    ):
        self.id, self.home, self.offer = instance_id, home, offer
        self.disk_mb: int | None = None
        self.clock_offset = 0
        self.lacks: list[str] = []  # programs that its image does not have
        self.apt_locked = False  # at its first boot
        self.keys: list[str] = []
        self._process: subprocess.Popen | None = None
        self._pid: int | None = None
        packages = [path for path in sys.path if path.endswith("site-packages")]  # by a .pth file
        shown = [sys.prefix, sys.base_prefix, *packages, *map(str, visible)]
        self._visible = list(dict.fromkeys(shown))
        self._sshd = free_port()
        target = self._sshd.getsockname()
        machine_id = offer["machine_id"]
        self.proxy = Wire("127.0.0.1", target)
        self.direct = Wire(f"127.77.{machine_id >> 8 & 255}.{machine_id & 255}", target)
        self.wires = [self.proxy, self.direct] if direct else [self.proxy]

    # ---- life ------------------------------------------------------------------------------------

    def boot(self, environment: dict[str, str], onstart: str) -> None:
        """Power on: sshd and onstart run some tens of milliseconds after this returns."""
        if not (self.home / "skel").exists():
            self._make_disk(onstart)
        folders = {"DISK": "disk", "SKEL": "skel", "BIN": "bin", "KEYS": "keys"}
        own = {name: str(self.home / folder) for name, folder in folders.items()} | {
            "DISK_MB": str(self.disk_mb or ""),
            "VOLUME": str(self.volume or ""),
            "MOUNT": self.mount,
            "SSHD": self.sshd,
            "LACKS": ":".join(self.lacks),
            "VISIBLE": ":".join(d for d in self._visible if not d.startswith("/usr")),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "HOSTNAME": f"C.{self.id}",
        }
        with open(self.home / "init.log", "ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "-mpiu", "--fork", "bash", str(HERE / "machine_init.sh")],
                stdin=subprocess.PIPE,  # the power cord: when this end closes, the machine is off
                stdout=log,
                stderr=log,
                env=environment | own | (STEADY if self.clock_offset else {}),
                start_new_session=True,
            )

    def wires_up(self) -> None:
        for wire in self.wires:
            wire.open()

    def wipe(self) -> None:
        """Forget the disk: the next boot makes a new one. The machine must be off."""
        for folder in ("disk", "skel", "bin"):
            shutil.rmtree(self.home / folder, ignore_errors=True)

    def power_off(self, silently: bool = False) -> None:
        """Every process ends; the disk stays. `silently`: nobody is told, connections just hang."""
        for wire in self.wires:
            wire.hang() if silently else wire.close()
        process, self._process, self._pid = self._process, None, None
        if process is None:
            return
        process.stdin.close()
        for child in _children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait(timeout=30)  # it ends after the last process of the name space

    def destroy(self) -> None:
        self.power_off()
        for wire in (self.proxy, self.direct):
            wire.release()
        self._sshd.close()
        if (log := self.home / "init.log").exists() and log.stat().st_size:
            print(f"machine {self.id} had trouble booting: {log.read_text()}", file=sys.stderr)
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # ---- inside ----------------------------------------------------------------------------------

    def path(self, inside: str | Path) -> Path:
        """Where the machine's file `inside` (absolute) is seen from here; not its system's."""
        root = self.home / "disk"
        if self.disk_mb and self.alive:
            root = Path(f"/proc/{self._init()}/root")
        return root / str(inside).lstrip("/")

    def execute(self, command: list[str]) -> str:
        """Run a program of this side on the disk; ValueError for paths that are not on it."""
        root = self.path("/").resolve()
        options = [word for word in command[1:] if word.startswith("-")]
        paths = [self.path(word).resolve() for word in command[1:] if word not in options]
        for path in paths:
            if not path.is_relative_to(root):
                raise ValueError(f"{path} is not on the disk")
        done = subprocess.run(
            [command[0], *options, *(paths or [root])],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.stdout

    def unlock_apt(self) -> None:
        self.path(APT_LOCK).unlink(missing_ok=True)

    def pids(self) -> list[int]:
        """The machine's processes, by this side's numbers."""
        found, todo = [], [self._init()] if self.alive else []
        while todo:
            found.append(todo.pop())
            todo += _children(found[-1])
        return [pid for pid in found if pid]

    def kill_above(self, megabytes: float) -> None:
        """Kill the largest process if all together use more, as the kernel does in a container."""
        sizes = {pid: _resident_mb(pid) for pid in self.pids()[1:]}  # the first is the machine
        if sum(sizes.values()) > megabytes:
            with suppress(ProcessLookupError):
                os.kill(max(sizes, key=lambda pid: sizes[pid]), signal.SIGKILL)

    def attach(self, key: str) -> None:
        """Let a key in, besides those that the machine itself has added."""
        if key not in self.keys:
            self.keys.append(key)
        if (file := self.home / "keys/authorized_keys").exists():
            with open(file, "a") as keys:
                keys.write(f"\n{key}\n")

    def forget_keys(self) -> None:
        """As when an attached key is lost: no new login until one is attached."""
        self.keys.clear()
        self.refresh_keys()

    def refresh_keys(self) -> None:
        """The service rewrites authorized_keys: keys that the machine has added are gone."""
        folder = self.home / "keys"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text("\n".join(self.keys))  # with no newline at its end

    def _init(self) -> int:
        """The machine's first process; 0 when it has none."""
        if not self._pid and self._process:
            self._pid = next(iter(_children(self._process.pid)), None)
        return self._pid or 0

    def _make_disk(self, onstart: str) -> None:
        skel, etc = self.home / "skel", self.home / "skel/etc"
        for folder in ("root", "etc/ssh", "var/log", "var/tmp", "workspace", "home", "opt"):
            (skel / folder).mkdir(parents=True)
        (self.home / "disk").mkdir()
        (etc / "passwd").write_text(PASSWD)
        (etc / "shadow").write_text("root:*:20000:0:99999:7:::\n")  # '*': by key only, not locked
        (etc / "group").write_text("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
        for name in ("nsswitch.conf", "hosts", "resolv.conf", "ld.so.cache", "services"):
            if (source := Path("/etc", name)).exists():
                shutil.copy(source, etc)
        if self.apt_locked:
            (skel / APT_LOCK.lstrip("/")).parent.mkdir()
            (skel / APT_LOCK.lstrip("/")).touch()
        self.refresh_keys()
        (skel / "root/onstart.sh").write_text(onstart)
        (etc / "ssh/banner").write_text(BANNER)
        host_key = etc / "ssh/ssh_host_ed25519_key"
        subprocess.run(
            ["ssh-keygen", "-qt", "ed25519", "-N", "", "-C", "", "-f", host_key], check=True
        )
        address, port = self._sshd.getsockname()
        (etc / "ssh/sshd_config").write_text(
            f"ListenAddress {address}:{port}\n"
            "HostKey /etc/ssh/ssh_host_ed25519_key\n"
            "PermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\n"
            "UsePAM no\n"
            "StrictModes no\n"
            "Banner /etc/ssh/banner\n"
            "Subsystem sftp /usr/lib/openssh/sftp-server\n"
        )
        if self.clock_offset:
            with open(etc / "ssh/sshd_config", "a") as file:
                file.write("SetEnv " + " ".join(f"{k}={v}" for k, v in STEADY.items()) + "\n")
            (skel / "opt/steady").mkdir()
            (skel / "opt/steady/sitecustomize.py").write_text(SLEEP)
            (etc / "ld.so.preload").write_text(f"{faketime()}\n")
            (etc / "faketimerc").write_text(f"{self.clock_offset:+d}\n")
        self._make_bin()

    def _make_bin(self) -> None:
        folder = self.home / "bin"
        folder.mkdir()
        python = Path(sys.prefix, "bin/python")
        programs = {name: f'#!/bin/sh\nexec {python} "$@"\n' for name in ("python", "python3")}
        smi = (HERE / "nvidia_smi.sh").read_text()
        for name, value in {
            "NUM_GPUS": self.offer["num_gpus"],
            "GPU_NAME": self.offer["gpu_name"],
            "GPU_RAM": self.offer["gpu_ram"],
            "DRIVER": self.offer["driver_version"],
            "CUDA": self.offer["cuda_max_good"],
            "COMPUTE_CAP": self.offer["compute_cap"] / 100,
            "MACHINE_ID": f"{self.offer['machine_id']:08d}",
        }.items():
            smi = smi.replace(f"@{name}@", str(value))
        programs |= {"nvidia-smi": smi} | ({"apt-get": APT_GET} if self.lacks else {})
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
