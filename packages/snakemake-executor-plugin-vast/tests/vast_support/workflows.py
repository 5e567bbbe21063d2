"""Workflows that end-to-end tests run on a fake Vast."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).parent / "example"
# A minute per second, for the fake and for the executor; less on a computer that is busy.
SCALE = float(os.environ.get("FAULT_SCALE", "60"))
SETTINGS = {
    "yes": True,
    "time-scale": SCALE,
    "setup": "true",
    "activate": "true",
    "smoke": "nvidia-smi -L",
    "idle-minutes": 20,
    "boot-minutes": 25,
    "lost-minutes": 12,
    "stall-minutes": 90,
    "state-minutes": 0.3,
    "state-share": 1,
    "silent-minutes": 30,
}


class WorkflowFolder:
    """A working directory, and the Snakemake processes started in it."""

    study = "example"

    def __init__(self, fake, folder: Path, **settings):
        self.fake, self.folder = fake, folder
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        own = {k.replace("_", "-"): v for k, v in settings.items()}
        self.settings = SETTINGS | {"market": fake.market} | own
        self.process: subprocess.Popen | None = None
        self.starts, self.others = 0, []

    def launch(self, *arguments: str, environment: dict | None = None):
        """Start Snakemake; its output goes to driver-<n>.log."""
        self.starts += 1
        flags = []
        for name, value in self.settings.items():
            flags += [f"--vast-{name}"] if value is True else [f"--vast-{name}", str(value)]
        command = [sys.executable, "-m", "snakemake", *flags, *arguments]
        variables = {**os.environ, **self.fake.environment, **(environment or {})}
        with open(self.folder / f"driver-{self.starts}.log", "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        return self

    def finish(self, timeout: float = 150.0) -> int:
        """Wait for Snakemake; its exit code. `timeout`: seconds at the usual scale."""
        try:
            return self.process.wait(timeout * 60 / SCALE)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            raise AssertionError(self.output()) from None

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def unlock(self) -> None:
        """Remove Snakemake's locks, as a user does after a hard kill."""
        shutil.rmtree(self.folder / ".snakemake/locks", ignore_errors=True)

    def output(self) -> str:
        logs = sorted(self.folder.glob("driver-*.log"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    # ---- looking -------------------------------------------------------------------------------

    def until(self, condition, timeout: float = 60.0, what: str = "") -> None:
        deadline = time.monotonic() + timeout * 60 / SCALE
        while not condition():
            dead = self.process.poll() is not None
            if dead or time.monotonic() > deadline:
                why = "Snakemake ended" if dead else "it did not happen"
                raise AssertionError(f"{what or condition}: {why}\n{self.output()}")
            time.sleep(0.02)

    def logs(self) -> list[Path]:
        """The logs of attempts, in their order."""
        found = (self.folder / ".snakemake/vast/logs").glob("*-*.log")
        found = [p for p in found if not p.name.startswith("local")]
        return sorted(found, key=lambda p: p.stat().st_mtime)

    def streamed(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs())

    def ledger(self) -> list[dict]:
        file = self.folder / f"ledger/{self.study}.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [json.loads(line) for line in lines]


class ExampleWorkflow(WorkflowFolder):
    """The example of shell commands and a training without torch."""

    def __init__(self, fake, folder: Path, **settings):
        shutil.copytree(EXAMPLE, folder)
        ignored = ("results", "logs", "state", "ledger", ".snakemake", "driver-*")
        (folder / ".gitignore").write_text("\n".join(ignored))
        super().__init__(fake, folder, **settings)

    def start(self, *arguments: str, config: tuple = (), environment: dict | None = None):
        options = ["--executor", "vast", "--jobs", "4", "--rerun-triggers", "input", "params"]
        options += ["--rerun-incomplete", *arguments, "--config", "study=example", *config]
        return self.launch(*options, environment=environment)

    def run(self, *arguments: str, config: tuple = (), timeout: float = 150.0) -> int:
        return self.start(*arguments, config=config).finish(timeout)

    def until_step(self, step: int) -> None:
        """Wait until the training has printed this step."""
        self.until(lambda: f"step {step}\n" in self.streamed(), what=f"step {step}")

    def until_state(self) -> None:
        """Wait until a state is saved on this computer."""
        home = self.folder / "state"
        self.until(lambda: any(home.glob("*/checkpoint-*/complete")), what="a saved state")

    def lost_steps(self) -> int:
        """Steps that were made more than once, as far as their output was copied here."""
        steps = [s for log in self.logs() for s in set(re.findall(r"step \d+\n", log.read_text()))]
        return len(steps) - len(set(steps))

    def report(self) -> str:
        file = self.folder / "results/report.txt"
        return file.read_text() if file.is_file() else ""


def expected_report(steps: int = 24) -> str:
    """The report of the example without any fault, computed here."""
    items = "one\ntwo\nthree\n"
    weights = hashlib.sha256(items.encode()).hexdigest()
    for step in range(1, steps + 1):
        weights = hashlib.sha256(f"{weights} {step}".encode()).hexdigest()
    scored = hashlib.sha256((weights + items).encode()).hexdigest() + "  -"
    table = f"{scored}\t3"
    return f"{table}\n{table[::-1]}\n"


def command_lines() -> str:
    """The command lines of every process on this computer."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)
