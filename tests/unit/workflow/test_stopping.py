"""Promise: a run that ends early says in three lines why, what is kept and that it can go on.

Snakemake and jobs are real processes below a terminal of their own. No job is left alive, no
traceback is printed or logged, and the same command goes on.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ablation.workflow import living
from ablation.workflow.load import gpus_here
from ablation.workflow.stopping import kept
from tests.support.refusals import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

SNAKEFILE = f"""
include: "{ROOT}/rules/common.smk"

rule all:
    default_target: True
    input: "training.txt", "importing.txt"

rule training:
    output: "training.txt"
    log: "logs/training.log"
    resources: gpu=config.get("hardware", dict()).get("gpu", 0)
    script: "training.py"

rule importing:
    output: "importing.txt"
    log: "logs/importing.log"
    script: "importing.py"

rule disk:
    output: "disk.txt"
    log: "logs/disk.log"
    script: "disk.py"

rule memory:
    output: "memory.txt"
    log: "logs/memory.log"
    script: "memory.py"

rule killed:
    output: "killed.txt"
    log: "logs/killed.log"
    script: "killed.py"

rule stopped:
    output: "stopped.txt"
    log: "logs/stopped.log"
    script: "stopped.py"
"""
SCRIPT = """
import os, resource, signal, sys, time
from pathlib import Path
from ablation.provenance.job import run
from ablation.training.checkpoints import claimed, newest_checkpoint
HOME = Path("state/micro/3B-31-0123456789ab")

def wait(name):
    Path(name).write_text(str(os.getpid()))
    for _ in range(1200):  # until it is ended; Python handles a signal between two short steps,
        time.sleep(0.1)  # but not in a sleep that begins just after the signal came

def main(job):
    {body}
    Path(job.output[0]).touch()

{before}
run(main, snakemake)
"""
TRAINING = """
    with claimed(HOME):
        if newest := newest_checkpoint(HOME):
            print("going on from", newest.name, file=sys.stderr)
        else:
            (HOME / "checkpoint-150").mkdir()
            (HOME / "checkpoint-150/complete").touch()
            wait("training.pid")
"""
SCRIPTS = {
    "training": {"body": TRAINING, "before": ""},
    "importing": {
        "body": "pass",
        "before": "Path('importing.pid').exists() or wait('importing.pid')",
    },
    "disk": {"body": "open('/dev/full', 'w').write('x' * 100_000)", "before": ""},
    "memory": {
        "body": "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 32)",
        "before": "",
    },
    "killed": {"body": "os.kill(os.getpid(), signal.SIGKILL)", "before": ""},
    "stopped": {"body": "os.kill(os.getpid(), signal.SIGTERM)", "before": ""},
}
COMMAND = [
    sys.executable,
    "-m",
    "snakemake",
    "--cores",
    "2",
    "--quiet",
    "progress",
    "rules",
    "host",
]
# A run that a script has started by `&`: Ctrl-C is not for it, and then SIGTERM ends it.
BACKGROUND = "background"
# {ending: what its first line says}
ENDINGS = {
    "Ctrl-C": "Stopped by Ctrl-C.",
    "SIGHUP": "Stopped, because its terminal was lost (SIGHUP).",
    "SIGTERM": "Stopped by SIGTERM.",
    "SIGKILL": "",  # nothing can be said any more
    BACKGROUND: "Stopped by SIGTERM.",
}
# The shell of a script survives Ctrl-C here, as the terminal's own shell does.
SHELL = "trap 'echo > interrupted' INT; \"$@\" & echo $! > snakemake.pid; wait $!; wait $!"


class Run:
    """A run of Snakemake in a folder, on a terminal of its own, that was ended by `ending`."""

    def __init__(self, folder: Path, ending: str):
        self.folder, self.ending = folder, ending
        shell = ["/bin/sh", "-c", SHELL, "sh"] if ending == BACKGROUND else []
        process, terminal = start(folder, [*shell, *COMMAND])
        self.jobs = [int(wait_for(folder / f"{name}.pid")) for name in ("training", "importing")]
        if ending == "Ctrl-C":
            os.write(terminal, b"\x03")
        elif ending == "SIGHUP":
            os.close(terminal)
        elif ending == BACKGROUND:
            os.write(terminal, b"\x03")
            wait_for(folder / "interrupted")
            os.kill(int(wait_for(folder / "snakemake.pid")), signal.SIGTERM)
        else:
            os.kill(process, getattr(signal, ending))
        self.printed = "" if ending == "SIGHUP" else read(terminal)
        _, self.status = os.waitpid(process, 0)
        self.left = [job for job in self.jobs if not ends(job)]

    @property
    def log(self) -> str:
        """What Snakemake has written into its log."""
        (log,) = (self.folder / ".snakemake/log").glob("*.log")
        return log.read_text()


def start(folder: Path, command: list[str]) -> tuple[int, int]:
    """(process, terminal) of a run of Snakemake as the leader of a new session."""
    write_workflow(folder)
    process, terminal = pty.fork()
    if process == 0:
        for ending in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ending, signal.SIG_DFL)  # a shell ignores SIGINT in its background jobs
        os.chdir(folder)
        os.execv(command[0], command)
    return process, terminal


def write_workflow(folder: Path) -> None:
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "profiles").symlink_to(ROOT / "profiles")  # of which Snakemake reads default/
    for name, parts in SCRIPTS.items():
        (folder / f"{name}.py").write_text(SCRIPT.format(**parts))


def read(terminal: int) -> str:
    found = b""
    with suppress(OSError):  # at the end of the other side
        while block := os.read(terminal, 65536):
            found += block
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;]*m", "", found.decode()).replace("\r\n", "\n")


def wait_for(file: Path) -> str:
    for _ in range(2400):
        if file.is_file() and (text := file.read_text()):
            return text
        time.sleep(0.05)
    raise TimeoutError(f"{file} was not written")


def ends(process: int) -> bool:
    """Whether a process ends within seconds, as it must."""
    for _ in range(200):
        with suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{ending: its run}; two run at a time, as each mostly waits."""
    folder = tmp_path_factory.mktemp("stopped")
    for ending in ENDINGS:
        (folder / ending).mkdir()
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda ending: Run(folder / ending, ending), ENDINGS)
        return dict(zip(ENDINGS, made, strict=True))


@pytest.mark.parametrize("ending", [e for e, said in ENDINGS.items() if said])
def test_a_stopped_run_says_three_lines(runs, ending):
    made = runs[ending]
    message = [
        ENDINGS[ending],
        "Finished results are kept, and unfinished trainings: 3B seed 31 up to step 150.",
        "The same command goes on.",
    ]
    if ending != "SIGHUP":  # whose terminal is gone
        _, _, after_start = made.printed.replace("^C", "").partition("Execute 2 jobs...")
        assert after_start.strip().splitlines() == message
    assert made.log.strip().splitlines()[-3:] == message
    own = (made.folder / "logs/training.log").read_text().splitlines()
    assert own[0].startswith("training: stopped") and "step 150" in own[1] and len(own) == 3


def test_ctrl_c_is_not_for_a_run_in_the_background_nor_for_its_jobs(runs):
    made = runs[BACKGROUND]
    assert "Ctrl-C" not in made.printed + made.log and "it alone" not in made.log
    # Python handles the signal with the lower number first, and Ctrl-C was there before.
    log = (made.folder / "logs/training.log").read_text()
    assert log.startswith("training: stopped by SIGTERM.")


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_job_lives_on_and_nothing_has_a_traceback(runs, ending):
    made = runs[ending]
    assert not made.left and made.status != 0
    logs = [file.read_text() for file in (made.folder / "logs").glob("*.log")]
    for text in [made.printed, made.log, *logs]:
        assert "Traceback" not in text and "Error" not in text


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_lock_is_left_by_a_kill_alone(runs, ending):
    assert any((runs[ending].folder / living.LOCKS).glob("*")) == (ending == "SIGKILL")


@pytest.mark.parametrize("ending", ["SIGHUP", "SIGKILL"])
def test_the_same_command_goes_on(runs, ending, monkeypatch, capsys):
    folder = runs[ending].folder
    monkeypatch.chdir(folder)
    if ending == "SIGKILL":
        # Its Snakemake has ended, and with that leader of a session the terminal.
        assert Path("logs/training.log").read_text().startswith("training: stopped, because its ")
        assert living.main() == 0  # make unlock
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "going on from checkpoint-150" in done.stderr
    assert not list(Path("state/micro").iterdir())


BEGIN_AGAIN = "Finished results are kept; this job begins again."
KEPT = "Finished results are kept; no step of an unfinished training is saved yet."
REMARKS = (
    "Using shell",
    "Shutting down, this might",
    "Select jobs",
    "Execute ",
    "Complete log",
    "Elapsed",
)
ENDED_JOBS = [
    "disk: the disk is full ([Errno 28] No space left on device).",
    BEGIN_AGAIN,
    "Make room on it first (df -h .). The same command goes on.",
    "memory: this machine has too little memory.",
    BEGIN_AGAIN,
    "Give Snakemake fewer --cores. The same command goes on.",
    "killed: the job was killed (SIGKILL), most often for want of memory.",
    KEPT,
    "Give Snakemake fewer --cores. The same command goes on.",
    "stopped: the job was stopped by a signal to it alone; its log names the signal.",
    KEPT,
    "The same command goes on.",
]


def test_jobs_that_the_machine_ends_say_three_lines_each(tmp_path):
    write_workflow(tmp_path)
    done = subprocess.run(
        [*COMMAND, "--keep-going", "--", "disk.txt", "memory.txt", "killed.txt", "stopped.txt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    _, _, after_start = done.stderr.partition("jobs...\n")
    lines = [line for line in after_start.splitlines() if line and not line.startswith(REMARKS)]
    assert sorted(lines) == sorted(ENDED_JOBS)


STOPPING = """
import logging, logging.handlers, os, queue, signal, subprocess, sys, threading
from ablation.workflow.stopping import stop_in_three_lines
log, messages = logging.getLogger("snakemake"), queue.Queue()
log.addHandler(logging.handlers.QueueHandler(messages))
stop_in_three_lines(log, "micro")
"""
# {moment at which a signal finds Snakemake: code that ends by it}
MOMENTS = {
    "while its queue of messages is locked": """
try:
    with messages.mutex:
        os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    assert messages.get(timeout=9).getMessage().startswith("Stopped by SIGTERM.")
""",
    "while a thread is about to start a job": """
stopped, status = threading.Event(), []
def work():
    stopped.wait()
    status.append(subprocess.run(["sleep", "60"]).returncode)
job = threading.Thread(target=work)
job.start()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    stopped.set()
    job.join()
    assert status == [-signal.SIGTERM]
""",
}


@pytest.mark.parametrize("code", MOMENTS.values(), ids=MOMENTS)
def test_a_stop_at_an_awkward_moment_ends_too(tmp_path, code):
    subprocess.run([sys.executable, "-c", STOPPING + code], cwd=tmp_path, timeout=40, check=True)


def test_folders_that_no_training_has_made_do_not_prevent_a_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("3B-1-aa/checkpoint-7", "a-1-bb/checkpoint-x", "\x1b]0;a\x07-2-cc/checkpoint-8"):
        (tmp_path / "state/micro" / folder / "complete").mkdir(parents=True)
    said = kept("micro")
    assert "3B seed 1 up to step 7" in said and "\x1b" not in said


def test_a_gpu_that_is_not_here_is_told_in_three_lines(tmp_path):
    if gpus_here():
        pytest.skip("there is a GPU")
    write_workflow(tmp_path)
    (tmp_path / "mine.yaml").write_text("study: mine\nhardware: {gpu: 1}\n")
    command = [*COMMAND, "--configfile", "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    lines = done.stderr.strip().splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("hardware.gpu: 1"))
    assert done.returncode == 1 and len(lines[first:]) <= 3
    assert "Nothing was started" in lines[first]
    assert "Execute" not in done.stderr and "Traceback" not in done.stderr


def test_what_needs_no_gpu_runs_where_none_is(tmp_path):
    """Tables and figures of a study whose models were run elsewhere, for example."""
    write_workflow(tmp_path)
    (tmp_path / "mine.yaml").write_text("study: mine\nhardware: {gpu: 1}\n")
    (tmp_path / "importing.pid").touch()  # the job does not wait
    command = [*COMMAND, "--configfile", "mine.yaml", "--", "importing.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "importing.txt").exists(), done.stderr
