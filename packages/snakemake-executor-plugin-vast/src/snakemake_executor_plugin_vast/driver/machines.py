"""A rented machine, what is the same for all machines of a run, and their start script."""

from __future__ import annotations

import ast
import base64
import gzip
import math
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..machine import deadman
from ..machine.transport import PYTHONS, Transport, Unreachable
from ..market import selection
from ..market.protocol import MachineId, Offer, Requirements

LONGEST_SCRIPT = 4048  # characters of a start script, by the documentation of Vast.ai
# On a machine that starts, others may hold apt's locks, and the network may not be up.
APT = "apt-get update -q; apt-get install -qy -oDPkg::Lock::Timeout=60 rsync; sleep 5"
NO_RSYNC = "no-rsync"  # the file that says that this has failed


@dataclass(frozen=True)
class Site:
    """What is the same for every machine of a run. Paths are the same on both sides."""

    workdir: str
    image: str
    setup: Sequence[str]  # shell commands that run once on each machine, in `workdir`
    activate: str  # shell command that runs before the smoke test and before each job
    smoke: str  # shell command that must succeed before the first job
    sources: Callable[[], list[str]]  # relative paths
    silent: float  # seconds without the driver after which a machine stops itself
    later: float  # seconds after which a machine that was stopped so destroys itself
    longest: float  # seconds after which a machine destroys itself in any case
    market: str = ""  # the name of the market, or of several
    bucket: str = ""  # where states are saved, instead of this computer
    access: dict[str, str] = field(default_factory=dict, repr=False)  # the bucket's keys
    # Environment variables of a job, from the name of its attempt.
    job_environment: Callable[[str], Mapping[str, str]] = lambda attempt: {}

    @property
    def folder(self) -> str:
        """The executor's own folder on the machine."""
        return f"{self.workdir}/.snakemake/vast/jobs"


@dataclass
class Machine:
    """A machine of this run; `rented` is a time on the plugin's clock."""

    label: str
    offer: Offer
    requirements: Requirements
    price: float  # dollars per hour
    rented: float
    id: MachineId = 0
    leased: float = math.inf  # when its dead-man switch last got a sign of life from here
    _connection: Transport | None = field(default=None, init=False)
    holds: dict[str, Any] = field(default_factory=dict)  # path: its signature when it was sent
    over: threading.Event = field(default_factory=threading.Event)
    restarted: bool = False  # it has stopped itself, and was started again

    @property
    def worn(self) -> bool:
        """Whether a restart has erased what `Site.setup` installed, so that no job may follow."""
        return self.restarted and not self.offer.keeps_disk

    @property
    def connection(self) -> Transport:
        """The connection to the machine. Raises Unreachable before the first login."""
        if self._connection is None:
            raise Unreachable(f"{self.label}: there was no login yet")
        return self._connection

    @connection.setter
    def connection(self, connection: Transport) -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def serves(self, requirements: Requirements) -> bool:
        """Whether the machine can run a job with these requirements."""
        mine = self.requirements
        return selection.serves(self.offer, mine.disk_gb, mine.interruptible, requirements)


def start_script(site: Site, key: str, control: str, clock: Clock, grace: float) -> str:
    """The start script: the ssh key, and the dead-man switch with the market's `control` module.

    It has no secrets. Raises ValueError if it would be too long even when it is packed.
    """
    code = compact(Path(deadman.__file__).read_text("utf-8"))
    folder = shlex.quote(site.folder)
    tick = max(0.5, clock.real(min(60.0, site.silent / 10)))
    times = [clock.real(t) for t in (site.silent, grace, site.later, site.longest)]
    numbers = " ".join(f"{t:.1f}" for t in [*times, tick])
    script = (
        f"export PATH=$PATH:{PYTHONS}\n"
        f"mkdir -p {folder} ~/.ssh && cd {folder} && touch ~/.no_auto_tmux lease\n"
        # On a line of its own, since the file may lack a newline at its end.
        f"grep -qsF '{key}' ~/.ssh/authorized_keys || echo '\n{key}' >> ~/.ssh/authorized_keys\n"
        f"cat > machine_control.py <<'END'\n{compact(control)}\nEND\n"
        f"cat > deadman.py <<'END'\n{code}\nEND\n"
        f"nohup python3 deadman.py . {numbers} > /dev/null 2>&1 &\n"
        f"rm -f {NO_RSYNC}\n"
        f"timeout -k 9 300 sh -c 'until command -v rsync; do {APT}; done' || touch {NO_RSYNC}\n"
    )
    if len(script) > LONGEST_SCRIPT:
        packed = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
        script = f'eval "$(echo {packed} | base64 -d | gunzip)"\n'
    if len(script) > LONGEST_SCRIPT:
        raise ValueError(
            f"{site.workdir}: the start script of a machine has {len(script)} characters, at most "
            f"{LONGEST_SCRIPT} were expected; nothing was rented. Start Snakemake in a folder with "
            "a shorter path"
        )
    return script


def rsync_installed(folder: str) -> str:
    """The shell command that waits for rsync, until the start script has given it up."""
    given_up = f"[ -e {shlex.quote(folder)}/{NO_RSYNC} ]"
    fail = "{ echo apt-get could not install rsync >&2; exit 1; }"
    return f"until command -v rsync > /dev/null; do ! {given_up} || {fail}; sleep 1; done"


def compact(source: str) -> str:
    """Python source without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
