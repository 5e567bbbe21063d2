"""The way to a machine and back: the system's ssh and rsync, with a key of this run alone.

Files have the same absolute path on both sides. No times travel: clocks differ, and what comes home
must be younger than what it was made from. Whatever the network may interrupt can be repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from . import bucket, onboard

SECRET = ("VAST_API_KEY", "VAST_IMAGE_LOGIN")  # never in the environment of a child


class Unreachable(Exception):
    """The machine did not answer, or the connection broke."""


class Denied(Unreachable):
    """The machine does not know our key (any more)."""


class Failed(Exception):
    """The machine answered, and the command failed there."""


class NoRoomHere(Failed):
    """The disk of this computer is full: no other machine would help."""


class Damaged(Exception):
    """What came home is not what left."""


class Keyring:
    """An ssh key for one run, and what it needs beside it, in a private temporary folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.private = folder / "key"
        if not self.private.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]
            subprocess.run([*command, str(self.private)], check=True, capture_output=True)
        self.public = self.private.with_suffix(".pub").read_text().strip()
        # the path of a socket may hold a hundred characters only
        self.sockets = Path(tempfile.mkdtemp(prefix="vast-", dir="/tmp"))

    def forget(self) -> None:
        shutil.rmtree(self.sockets, ignore_errors=True)


class Transport:
    """One machine at one address. `timeout`: real seconds for a short command."""

    def __init__(self, keys: Keyring, name: str, address: tuple[str, int], timeout: float = 30.0):
        self.keys, self.name, self.timeout = keys, name, timeout
        host, port = address
        wait = max(3, int(min(timeout, 15)))
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": f'"{keys.private}"',  # quoted: paths may hold spaces
            "UserKnownHostsFile": f'"{keys.folder / "known_hosts"}"',
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": name,
            "StrictHostKeyChecking": "accept-new",
            "ConnectTimeout": wait,
            "ServerAliveInterval": wait,
            "ServerAliveCountMax": 4,
            "ControlMaster": "auto",
            "ControlPath": keys.sockets / f"{name[-24:]}-{port}",
            "ControlPersist": 300,
            "LogLevel": "ERROR",
        }
        flags = [part for k, v in options.items() for part in ("-o", f"{k}={v}")]
        self._ssh = ["ssh", "-F", "none", *flags, "-p", str(port), "-l", "root"]
        self._host = host

    def check(self) -> None:
        """What is wrong here must not be looked for on machines. Raises Failed, or OSError."""
        for command in ([*self._ssh, "-G", self._host], ["rsync", "--version"]):
            done = self._run(command, b"", self.timeout)
            if done.returncode:
                raise Failed(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")

    def command(self, text: str, data: str | bytes = "", timeout: float | None = None) -> str:
        """What a shell command prints there; `data` is its input."""
        data = data.encode() if isinstance(data, str) else data
        done = self._run([*self._ssh, self._host, text], data, timeout or self.timeout)
        output = done.stdout.decode(errors="replace")
        if done.returncode == 255:
            self._lost(done.stderr.decode(errors="replace"))
        if done.returncode:
            said = done.stderr.decode(errors="replace") or output
            raise Failed(f"exit {done.returncode}: {said[-2000:].strip()}")
        return output

    def ask(self, what: str, folder: str, request: dict, timeout: float | None = None) -> dict:
        """A command of `onboard`, and its answer; secrets in the request go by its input."""
        script = shlex.quote(f"{Path(folder).parent}/onboard.py")
        text = f"python3 {script} {what} {shlex.quote(folder)}"
        return json.loads(self.command(text, json.dumps(request), timeout))

    def install(self, folder: str) -> None:
        """Put what runs there into `folder`."""
        place = shlex.quote(folder)
        for module in (onboard, bucket):
            source = Path(module.__file__)
            self.command(f"mkdir -p {place} && cat > {place}/{source.name}", source.read_bytes())

    def touch(self, path: str) -> None:
        self.command(f"touch {shlex.quote(path)}")

    def push(self, paths: Iterable[str]) -> None:
        """Bring files and folders (absolute paths) there; links become what they point to."""
        self._rsync(["-rLp", "--relative", "--no-implied-dirs", "--ignore-times"], paths, True)

    def pull(self, paths: Iterable[str]) -> None:
        """Bring files and folders (absolute paths) here; what is not there is left out."""
        flags = ["-rlp", "--relative", "--no-implied-dirs", "--ignore-times"]
        self._rsync([*flags, "--ignore-missing-args"], paths, False)

    def pull_state(self, copy: str, state: str, parts: list[str]) -> None:
        """Bring a linked copy of a state home, so that what is here is whole at any moment.

        Seals come last; what the machine no longer has goes, its seal first.
        """
        Path(state).mkdir(parents=True, exist_ok=True)
        ways = [f"root@{self._host}:{copy}/", f"{state}/"]
        self._transfer(["-rlp", "--exclude", f"/*/{onboard.SEAL}", *ways], False)
        self._transfer(["-rlp", *ways], False)
        for entry in Path(state).iterdir():
            if entry.name not in parts and entry.is_dir():
                (entry / onboard.SEAL).unlink(missing_ok=True)
                shutil.rmtree(entry, ignore_errors=True)

    def close(self) -> None:
        """End the shared connection."""
        with contextlib.suppress(Unreachable):
            self._run([*self._ssh, "-O", "exit", self._host], b"", 5)

    def _rsync(self, flags: list[str], paths: Iterable[str], there: bool) -> None:
        names = [path.lstrip("/") for path in paths]
        if names:
            ends = ["/", f"root@{self._host}:/"]
            ends = ends if there else ends[::-1]
            self._transfer([*flags, "--files-from=-", *ends], there, "\n".join(names).encode())

    def _transfer(self, arguments: list[str], there: bool, data: bytes = b"") -> None:
        """One rsync, `there` or here. Its time-out is for silence: it may last while it moves."""
        silence = max(10, int(2 * self.timeout))
        shell = shlex.join(self._ssh)
        command = ["rsync", f"--timeout={silence}", "-e", shell, *arguments]
        done = self._run(command, data, None)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            if "No space left" in said and there:
                raise Failed(said[-2000:])
            if "No space left" in said:
                raise NoRoomHere(
                    f"the disk of this computer is full: no room for what {self.name} has made. "
                    "Make some and start again"
                )
            self._lost(f"rsync exit {done.returncode}: {said}")

    def _run(self, command: list[str], data: bytes, timeout: float | None):
        environment = {k: v for k, v in os.environ.items() if k not in SECRET}
        try:
            return subprocess.run(
                command,
                input=data,
                capture_output=True,
                timeout=timeout,
                env=environment,
                start_new_session=True,  # Ctrl-C is the driver's alone
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.name}: no answer within {timeout:.0f} s") from None

    def _lost(self, said: str) -> None:
        kind = Denied if "Permission denied" in said else Unreachable
        raise kind(f"{self.name}: {said[-500:].strip()}")


def verify(files: dict[str, str], workdir: str) -> None:
    """Compare what came home with the hashes taken where it was made. Raises Damaged."""
    for name, digest in files.items():
        path = os.path.join(workdir, name)
        if not os.path.isfile(path):
            raise Damaged(f"{name} did not come home")
        if onboard.sha256(path) != digest:
            raise Damaged(f"{name} changed on its way home")


def manifest(workdir: Path, known: Iterable[str], largest: float) -> tuple[list[str], list[str]]:
    """The sources of a workflow below `workdir`: (relative paths, what was left out and why).

    What git tracks or could track (so not what it ignores), and what Snakemake itself knows of.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard", "--deduplicate", "."],
        cwd=workdir,
        capture_output=True,
    )
    names = listed.stdout.decode(errors="replace").split("\0") if not listed.returncode else []
    kept, left_out = [], []
    for name in sorted({os.path.normpath(n) for n in [*names, *known] if n}):
        path = workdir / name
        if name.startswith("..") or os.path.isabs(name):
            left_out.append(f"{name}: outside the working directory")
        elif path.is_file() and path.stat().st_size > largest:
            left_out.append(f"{name}: {path.stat().st_size / 1e6:.0f} MB")
        elif path.is_file() or path.is_symlink() and path.exists():
            kept.append(name)
    return kept, left_out
