"""An attempt at a job on a machine that answers what a test says. No network, no waits."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from snakemake_executor_plugin_vast.driver import machines, work
from snakemake_executor_plugin_vast.driver.states import Places
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.market.protocol import Instance, Requirements

from .memory_market import MemoryMarket, offer
from .stand_ins import ARMED, DirectKeeper, ManualClock

OVER = 4000.0  # when the job ends


class Connection:
    """A machine whose job tells, at any time, what `told(time)` says."""

    timeout = 30.0

    def __init__(self, clock, told):
        self.clock, self.told = clock, told
        self.asked, self.looks, self.pulled, self.copies = [], [], [], []
        self.request, self.read, self.offsets, self.parts = None, 0, [], []
        self.checks, self.armed, self.commands = [], lambda now: ARMED, []

    def ask(self, what, folder, request, timeout=None):
        self.asked.append(what)
        if what == "start":
            self.request = request
        if what == "snapshot":
            return {"there": True, "parts": self.parts}
        if what != "look":
            return {}
        self.looks.append(self.clock.now())
        self.offsets.append(request["offset"])
        seen = {"output": "step\n", "gpu": 90, "mark": None, "exit": None, "alive": True, "size": 0}
        return seen | self.told(self.clock.now())

    def push(self, paths, most):
        list(paths)

    def pull(self, paths, into, most):
        for path in map(Path, paths):
            self.pulled.append(str(path))
            Path(f"{into}{path.parent}").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, f"{into}{path}")

    def pull_state(self, copy, state, parts, most):
        self.copies.append(self.clock.now())
        self.clock.wait(100.0)

    def command(self, text, data="", timeout=None):
        self.commands.append(text)
        if "armed.py" not in text:
            return ""
        self.checks.append(self.clock.now())
        return self.armed(self.clock.now())

    def close(self):
        pass


def make_attempt(folder, told, seconds=1e6, clock=None, **facts):
    """An attempt, and the connection to its machine, which is listed as `keeper.running`."""
    clock, keeper = clock or ManualClock(), DirectKeeper(MemoryMarket([]))
    keeper.running = Instance(1, "m", "running", "", 1, 0.1, False, ())
    keeper.find = lambda label, since: (True, keeper.running)
    requirements = Requirements(seconds=seconds)
    machine = machines.Machine("m", offer(1), requirements, 0.1, 0.0)
    machine.connection = Connection(clock, told)
    site = machines.Site(str(folder), "i", (), "", "", list, 1800, 7200, 86400)
    given = {"outputs": [], "extras": [], "states": []} | facts
    task = work.Task("t", "true", {}, [], remove=[], requirements=requirements, **given)
    made = work.Attempt(
        task, machine, "a-1", site, keeper, clock, Limits(), work.Pace(600.0, 10.0),
        Places(folder / "states.json"), threading.Event(), lambda machine: None,
        folder / "a-1.log",
    )  # fmt: skip
    return made, machine.connection


def exit(now, **files):
    """What a job tells that has made these files, and ends after OVER."""
    done = {"code": 0, "seconds": 1.0, "files": files, "missing": [], "links": []}
    return {"exit": done if now >= OVER else None}
