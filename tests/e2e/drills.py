"""What the end-to-end tests share: driver processes, a fake Vast to trouble them, a small study."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUDY = Path(__file__).parent / "drill"
SCALE = 60.0  # a minute a second, for the fake as for the driver
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


class Drivers:
    """One project folder and the drivers started in it."""

    study = "drill"

    def __init__(self, fake, folder: Path, **settings):
        self.fake, self.folder = fake, folder
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        self.settings = SETTINGS | {k.replace("_", "-"): v for k, v in settings.items()}
        self.process: subprocess.Popen | None = None
        self.starts, self.others = 0, []

    def launch(self, *arguments: str, environment: dict | None = None):
        """A driver; its output goes to driver-<n>.log."""
        self.starts += 1
        flags = []
        for name, value in self.settings.items():
            flags += [f"--vast-{name}"] if value is True else [f"--vast-{name}", str(value)]
        command = [sys.executable, "-m", "snakemake", *flags, *arguments]
        variables = {**os.environ, **self.fake.environment, **(environment or {})}
        variables["PYTHONPATH"] = str(ROOT / "src")
        with open(self.folder / f"driver-{self.starts}.log", "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        return self

    def finish(self, timeout: float = 150.0) -> int:
        """Wait for the driver; its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            raise AssertionError(self.said()) from None

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def unlock(self) -> None:
        """As a user does after a hard kill."""
        shutil.rmtree(self.folder / ".snakemake/locks", ignore_errors=True)

    def said(self) -> str:
        logs = sorted(self.folder.glob("driver-*.log"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    # ---- looking -------------------------------------------------------------------------------

    def until(self, condition, timeout: float = 60.0, what: str = "") -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            dead = self.process.poll() is not None
            if dead or time.monotonic() > deadline:
                why = "the driver ended" if dead else "nothing came"
                raise AssertionError(f"{what or condition}: {why}\n{self.said()}")
            time.sleep(0.02)

    def logs(self) -> list[Path]:
        """What attempts printed, in their order."""
        found = (self.folder / ".snakemake/vast/logs").glob("*-*.log")
        found = [p for p in found if not p.name.startswith("local")]
        return sorted(found, key=lambda p: p.stat().st_mtime)

    def streamed(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs())

    def ledger(self) -> list[dict]:
        file = self.folder / f"ledger/{self.study}.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [json.loads(line) for line in lines]


class Drill(Drivers):
    """The small study of shell commands."""

    def __init__(self, fake, folder: Path, **settings):
        shutil.copytree(STUDY, folder)
        ignored = ("results", "logs", "state", "ledger", ".snakemake", "driver-*")
        (folder / ".gitignore").write_text("\n".join(ignored))
        super().__init__(fake, folder, **settings)

    def start(self, *arguments: str, config: tuple = (), environment: dict | None = None):
        options = ["--executor", "vast", "--jobs", "4", "--rerun-triggers", "input", "params"]
        options += ["--rerun-incomplete", *arguments, "--config", "study=drill", *config]
        return self.launch(*options, environment=environment)

    def run(self, *arguments: str, config: tuple = (), timeout: float = 150.0) -> int:
        return self.start(*arguments, config=config).finish(timeout)

    def until_step(self, step: int) -> None:
        """Until a training has streamed this step home."""
        self.until(lambda: f"step {step}\n" in self.streamed(), what=f"step {step}")

    def until_state(self) -> None:
        """Until a state has come home."""
        home = self.folder / "state"
        self.until(lambda: any(home.glob("*/checkpoint-*/complete")), what="a state at home")

    def lost_steps(self) -> int:
        """Steps that were made more than once, as far as they were streamed home."""
        steps = [s for log in self.logs() for s in set(re.findall(r"step \d+\n", log.read_text()))]
        return len(steps) - len(set(steps))

    def report(self) -> str:
        file = self.folder / "results/report.txt"
        return file.read_text() if file.is_file() else ""
