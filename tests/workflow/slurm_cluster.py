"""A SLURM cluster of one node, this machine: two GPUs that are device files, and no accounting.

Everything is in one folder but slurm.conf and gres.conf: `srun` inside a job looks for them in
/etc/slurm alone. They are taken away again at the end.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurm-wlm-basic-plugins", "munge")  # of Debian and Ubuntu
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel", "scontrol")
ETC = Path("/etc/slurm")
RUNNING = ("RUNNING", "COMPLETING")
OURS = "# of a test of ablation: may be removed\n"
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES)
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def lacking() -> str:
    """Why no cluster can be started here; empty when one can."""
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]:
        return f"no {', '.join(missing)}: {' '.join(INSTALL)}"
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons and write /etc/slurm"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(OURS):
        return f"{conf} is that of another cluster, and stays as it is"
    return ""


def install() -> None:
    """Install what is missing, where root can do so."""
    if os.geteuid() == 0 and shutil.which(INSTALL[0]) and lacking().startswith("no "):
        subprocess.run(INSTALL, check=True, stdout=subprocess.DEVNULL)


def wait(until: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Ask again and again; raise TimeoutError that says what did not happen."""
    for _ in range(int(seconds * 5)):
        if until():
            return
        subprocess.run(["sleep", "0.2"], check=True)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


class Cluster:
    """`with Cluster(folder) as cluster:` runs it; a second one waits until the first has ended."""

    def __init__(self, home: Path):
        self.home = home

    def __enter__(self) -> Cluster:
        self.lock = open("/run/lock/ablation-slurm", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.home.chmod(0o755)
        for name in ("state", "spool"):
            (self.home / name).mkdir()
        for number in (0, 1):
            os.mknod(
                self.home / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3 + number * 2)
            )
        (self.home / "key").write_bytes(os.urandom(128))
        (self.home / "key").chmod(0o400)
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(OURS + self._conf())
        (ETC / "gres.conf").write_text(f"{OURS}Name=gpu Type=fake File={self.home}/gpu[0-1]\n")
        try:
            self._daemon(
                *(
                    "munged",
                    "--force",
                    f"--socket={self.home}/munge",
                    f"--key-file={self.home}/key",
                ),
                *(f"--log-file={self.home}/munged.log", f"--pid-file={self.home}/munged.pid"),
                *(f"--seed-file={self.home}/seed",),
            )
            self._daemon("slurmctld")
            self._daemon("slurmd")
            wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "an idle node")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if (self.home / "slurmd.pid").exists():
            self.ask("scancel", "--user=root")
            wait(lambda: not self.running(), "the end of all jobs")
        for name in ("slurmd", "slurmctld", "munged"):
            file = self.home / f"{name}.pid"
            if file.exists():
                subprocess.run(["kill", file.read_text().strip()], capture_output=True)
                wait(lambda file=file: not file.exists(), f"the end of {name}")
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)
        self.lock.close()

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """{job id: what SLURM says of it} of all that it remembers; Comment names the rule."""
        lines = self.ask("scontrol", "show", "job", "--oneliner").splitlines()
        said = (dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines)
        return {job["JobId"]: job for job in said if "JobId" in job}

    def running(self, rule: str = "") -> str:
        """The id of a job of the rule that runs now, or nothing."""
        found = (j for j in self.jobs().values() if j["JobState"] in RUNNING)
        return next((j["JobId"] for j in found if rule in j.get("Comment", "")), "")

    def _daemon(self, name: str, *options: str) -> None:
        command = [shutil.which(name, path=PATH), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} did not start: {done.stdout}{done.stderr}")

    def _conf(self) -> str:
        host, home = socket.gethostname().partition(".")[0], self.home
        return f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge,cred_expire=5
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
KillWait=2
MinJobAge=3600
SchedulerParameters=sched_interval=1,sched_min_interval=0
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=5000 Gres=gpu:fake:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
