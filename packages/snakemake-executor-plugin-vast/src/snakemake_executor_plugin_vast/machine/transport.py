"""The connection to a machine: the system's ssh and rsync, with an ssh key that only this run uses.

Files have the same absolute path on both sides. Modification times are not transferred: clocks
differ, and an output must be younger than its inputs. Every transfer can be repeated.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from . import armed, bucket, onboard, process
from .process import SLOWEST, Excess, Progress

# ssh and rsync would read other text as options or as a daemon's address.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
# Images have their Python in these folders, and put them on a PATH that logins do not get.
PYTHONS = "/venv/main/bin:/opt/conda/bin"
# Flags for what comes home: no links, no devices, and no file that runs with its owner's rights.
INCOMING = ("-rp", "--chmod=u+rwX,go-w,ug-s")  # go-w: only the owner may change it


class Unreachable(Exception):
    """The machine did not answer, or the connection broke."""


class Denied(Unreachable):
    """The machine does not accept the ssh key, or no longer does."""


class Failed(Exception):
    """The machine answered, and the command failed there."""


class TooMuch(Failed):
    """The machine sent more than it may."""


class NoRoomHere(Failed):
    """The disk of this computer is full, which no other machine can change."""


def check_programs() -> None:
    """Check that the programs that this module starts are installed here. Raises Failed."""
    missing = [name for name in ("ssh", "ssh-keygen", "rsync") if shutil.which(name) is None]
    if missing:
        raise Failed(
            f"this computer lacks {' and '.join(missing)}, which connect it to rented machines; "
            "no machine was rented. Install them (Debian: apt-get install openssh-client rsync)"
        )


class Keyring:
    """The ssh key of one run, with its known hosts and the sockets of shared connections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.private = folder / "key"
        if not self.private.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]
            subprocess.run([*command, str(self.private)], check=True, capture_output=True)
        self.public = self.private.with_suffix(".pub").read_text("utf-8").strip()
        # the path of a socket may have about a hundred characters only
        self.sockets = Path(tempfile.mkdtemp(prefix="vast-", dir="/tmp"))

    def forget(self) -> None:
        shutil.rmtree(self.sockets, ignore_errors=True)


class Transport:
    """One machine at one address.

    `timeout` is for a short command, and `stall` for a transfer that hardly moves: real seconds.

    Raises Unreachable for a label or an address that no machine can have: both come from a market.
    """

    def __init__(
        self,
        keys: Keyring,
        name: str,
        address: tuple[str, int],
        timeout: float = 30.0,
        stall: float = 300.0,
    ) -> None:
        self.keys, self.name, self.timeout, self.stall = keys, name, timeout, stall
        host, port = address
        if not (NAME.fullmatch(host) and NAME.fullmatch(name) and 0 < port < 65536):
            raise Unreachable(
                f"machine {name!r} is listed at {host!r}, port {port!r}; a plain label, a host "
                "name or IPv4 address, and a port from 1 to 65535 were expected"
            )
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
        """Check that ssh and rsync work on this computer. Raises Failed or OSError."""
        for command in ([*self._ssh, "-G", "--", self._host], ["rsync", "--version"]):
            done = self._run(command, b"", self.timeout)
            if done.returncode:
                raise Failed(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")

    def command(self, text: str, data: str | bytes = "", timeout: float | None = None) -> str:
        """Run a shell command on the machine; what it prints. `data` is its standard input."""
        data = data.encode() if isinstance(data, str) else data
        text = f"export PATH={PYTHONS}:$PATH; {text}"
        done = self._run([*self._ssh, "--", self._host, text], data, timeout or self.timeout)
        output = done.stdout.decode(errors="replace")
        if done.returncode == 255:
            self._lost(done.stderr.decode(errors="replace"))
        if done.returncode:
            said = done.stderr.decode(errors="replace") or output
            raise Failed(f"exit {done.returncode}: {said[-2000:].strip()}")
        return output

    def ask(
        self, what: str, folder: str, request: dict[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """Run a command of `onboard`; its answer. The request, with its secrets, goes by stdin.

        Raises ValueError for an answer that is no JSON object.
        """
        script = shlex.quote(f"{Path(folder).parent}/onboard.py")
        text = f"python3 {script} {what} {shlex.quote(folder)}"
        try:
            answer = json.loads(self.command(text, json.dumps(request), timeout))
        except RecursionError:
            answer = None
        if not isinstance(answer, dict):
            raise ValueError(f"{self.name}: onboard.py {what} answered no JSON object")
        return answer

    def install(self, folder: str) -> None:
        """Copy the modules that run on the machine into `folder`."""
        place = shlex.quote(folder)
        for module in (onboard, bucket, armed):
            source = Path(str(module.__file__))
            self.command(f"mkdir -p {place} && cat > {place}/{source.name}", source.read_bytes())

    def touch(self, path: str) -> None:
        self.command(f"touch {shlex.quote(path)}")

    def push(self, paths: Iterable[str], most: float) -> None:
        """Copy files and folders (absolute paths) to the machine; links stay links.

        It may take as long as `most` bytes may.
        """
        self._rsync(["-rlp", "--relative", "--no-implied-dirs", "--ignore-times"], paths, most)

    def pull(self, paths: Iterable[str], into: str, most: float) -> None:
        """Copy files and folders (absolute paths) below the folder `into` here.

        Links are left out, and missing files are skipped. Raises TooMuch beyond `most` bytes.
        """
        os.makedirs(into, exist_ok=True)
        flags = [*INCOMING, "--relative", "--no-implied-dirs", "--ignore-times"]
        self._rsync([*flags, "--ignore-missing-args"], paths, most, f"{into}/")

    def pull_state(self, copy: str, state: str, parts: list[str], most: float) -> None:
        """Copy a snapshot of a state here, so that the local state is complete at any moment.

        Files named `complete` are copied last. What the machine no longer has is removed, of
        folders their `complete` first. Raises TooMuch beyond `most` bytes, also if it takes several
        transfers to send them.
        """
        Path(state).mkdir(parents=True, exist_ok=True)
        ways = ["--", f"{self._host}:{copy}/", f"{state}/"]
        self._transfer([*INCOMING, "--exclude", f"/*/{onboard.SEAL}", *ways], most)
        self._transfer([*INCOMING, *ways], most)
        kept = set(parts)  # a machine may name millions
        for entry in Path(state).iterdir():
            if entry.name not in kept:
                if not entry.is_symlink():
                    onboard.remove(str(entry / onboard.SEAL))
                onboard.remove(str(entry))
        if (size := sum(os.path.getsize(file) for file in onboard.files_below(state))) > most:
            raise TooMuch(
                f"{self.name}: it sent {size / 1e9:.3g} GB, {most / 1e9:.3g} GB are allowed"
            )

    def close(self) -> None:
        """Close the shared connection."""
        with contextlib.suppress(Unreachable):
            self._run([*self._ssh, "-O", "exit", "--", self._host], b"", 5)

    def _rsync(self, flags: list[str], paths: Iterable[str], most: float, into: str = "") -> None:
        """Copy these paths into a folder here, or without one to their places on the machine."""
        names = [path.lstrip("/") for path in paths]
        if names:
            ends = [f"{self._host}:/", into] if into else ["/", f"{self._host}:/"]
            data = "\n".join(names).encode()
            self._transfer([*flags, "--files-from=-", "--", *ends], most, data, bool(into))

    def _transfer(
        self, arguments: list[str], most: float, data: bytes = b"", home: bool = True
    ) -> None:
        """Run rsync within the time for `most` bytes; no more than these come `home`."""
        silence = max(10, int(2 * self.timeout))
        shell = shlex.join([*self._ssh, "--"])
        command = ["rsync", f"--timeout={silence}", "--info=progress2", "--no-h", "-e", shell]
        bounds = Progress(most if home else math.inf, self.stall, self.stall + most / SLOWEST)
        done = self._run([*command, *arguments], data, None, bounds)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            if "No space left" in said and not home:
                raise Failed(said[-2000:])
            if "No space left" in said:
                raise NoRoomHere(
                    f"the disk of this computer is full, so the outputs on {self.name} cannot be "
                    "copied here. Free some space and start Snakemake again."
                )
            self._lost(f"rsync exit {done.returncode}: {said}")

    def _run(
        self,
        command: list[str],
        data: bytes,
        timeout: float | None,
        progress: Progress | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return process.run(command, data, timeout, progress)
        except Excess as error:
            raise TooMuch(f"{self.name}: {error}") from None
        except TimeoutError as error:
            raise Unreachable(f"{self.name}: {error}") from None

    def _lost(self, said: str) -> NoReturn:
        kind = Denied if "Permission denied" in said else Unreachable
        raise kind(f"{self.name}: {said[-500:].strip()}")
