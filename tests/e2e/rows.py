"""The faults, one function each: make the trouble, bring the study to its end.

Each gets a `Drill` and returns what it wants to say about the run (mostly nothing).
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

from .drills import ROOT, SCALE, Drill

ROWS = {}


def row(name: str, **settings):
    def add(function):
        ROWS[name] = (function, settings)
        return function

    return add


def done(drill: Drill, *arguments: str, config: tuple = ()) -> None:
    code = drill.run(*arguments, config=config) if not drill.process else drill.finish()
    assert code == 0, drill.said()


@row("none")
def undisturbed(drill):
    done(drill)


@row("offer taken")
def offer_taken(drill):
    drill.fake.fault("create", taken=True)
    done(drill)


@row("create 429")
def create_429(drill):
    drill.fake.fault("create", times=2, status=429)
    done(drill)


@row("create 500")
def create_500(drill):
    drill.fake.fault("create", status=500)
    done(drill)


@row("create's reply lost")
def reply_lost(drill):
    drill.fake.fault("create", lose_reply=True)
    done(drill)
    assert len(drill.fake.calls("create")) == 1, "rented twice"


@row("boot stuck", boot_minutes=6)
def boot_stuck(drill):
    drill.fake.fault("boot", stuck="loading")
    done(drill)


@row("boot fatal")
def boot_fatal(drill):
    drill.fake.fault("boot", status_msg="Error: toomanyrequests: pull rate limit exceeded")
    done(drill)


@row("ssh refused, then fine")
def ssh_refused(drill):
    drill.fake.fault("boot", ssh_refused=120)
    done(drill)


@row("ssh dead in mid-job")
def ssh_dead(drill):
    drill.start().until_step(8)
    [instance] = drill.fake.instances
    drill.fake.cut_ssh(instance.id, "hang")
    time.sleep(2)
    drill.fake.mend_ssh(instance.id)
    done(drill)


@row("keys forgotten in mid-job")
def keys_forgotten(drill):
    drill.start().until_step(8)
    [instance] = drill.fake.instances
    drill.fake.forget_keys(instance.id)
    drill.fake.cut_ssh(instance.id, "reset")
    done(drill)
    assert drill.fake.calls("ssh")


@row("host vanished in mid-job")
def host_vanished(drill):
    drill.start().until_state()
    [instance] = drill.fake.instances
    drill.fake.vanish(instance.id, silently=True)
    done(drill)


@row("outbid in mid-job", interruptible=True)
def outbid(drill):
    drill.start().until_state()
    [instance] = drill.fake.instances
    assert instance.price
    drill.fake.outbid(instance.id)
    done(drill)


@row("job stalls", stall_minutes=15)
def stalls(drill):
    done(drill, config=("trouble=stall",))


@row("job exit 1")
def job_fails(drill):
    done(drill, "--retries", "1", config=("trouble=exit",))


@row("output missing")
def output_missing(drill):
    done(drill, "--retries", "1", config=("trouble=output-missing",))


@row("disk full")
def disk_full(drill):
    drill.fake.fault("boot", disk_mb=40)
    done(drill, config=("trouble=disk",))


@row("destroy fails 3 times")
def destroy_fails(drill):
    drill.fake.fault("destroy", times=3, status=500)
    done(drill)


@row("API down for a while")
def api_down(drill):
    drill.start().until_step(6)
    drill.fake.fault("api", times=None, status=503)
    time.sleep(4)
    drill.fake.clear("api")
    done(drill)


def ended_and_again(drill, *numbers: int) -> None:
    drill.start().until_state()
    for number in numbers:
        drill.signal(number)
        time.sleep(0.2)
    assert drill.finish() != 0
    assert not drill.fake.instances, "machines outlive the driver"
    assert drill.run() == 0, drill.said()


@row("driver SIGTERM")
def sigterm(drill):
    ended_and_again(drill, signal.SIGTERM)


@row("driver SIGHUP")
def sighup(drill):
    ended_and_again(drill, signal.SIGHUP)


@row("Ctrl-C during a status check")
def ctrl_c(drill):
    ended_and_again(drill, signal.SIGINT, signal.SIGINT)


@row("SIGKILL, then restart")
def sigkill(drill):
    slow = ("seconds=0.8",)  # it must not end before the next driver is there
    drill.start(config=slow).until_state()
    drill.signal(signal.SIGKILL)
    drill.finish()
    assert len(drill.fake.instances) == 1
    drill.unlock()
    assert drill.run(config=slow) == 0, drill.said()
    assert "brought home state/a" in drill.said(), drill.said()


@row("SIGKILL, then `ablation reap`")
def sigkill_reap(drill):
    drill.start().until_state()
    drill.signal(signal.SIGKILL)
    drill.finish()
    environment = os.environ | drill.fake.environment | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "ablation", "reap"]
    subprocess.run(command, cwd=drill.folder, env=environment, check=True, capture_output=True)
    assert not drill.fake.instances
    drill.unlock()
    assert drill.run() == 0, drill.said()


@row("SIGKILL, nobody restarts", silent_minutes=4)
def dead_man(drill):
    drill.start(config=("seconds=0.8",)).until_state()
    [instance] = drill.fake.instances
    drill.signal(signal.SIGKILL)
    drill.finish()
    drill.fake.wait(lambda: not instance.uses_gpu, 60, "the machine did not stop itself")
    drill.unlock()
    assert drill.run(config=("seconds=0.8",)) == 0, drill.said()
    assert "brought home state/a" in drill.said(), drill.said()


@row("two drivers at once")
def two_drivers(drill):
    other = Drill(drill.fake, drill.folder.parent / "other")
    drill.start()
    other.start()
    assert other.finish() == 0, other.said()
    done(drill)
    assert other.report() == drill.report()
    drill.others = [other]


@row("budget reached", budget=0.5, setup_minutes=5)
def budget(drill):
    """It pays for the training (60 min and start-up), not for an evaluation of up to 120 min."""
    assert drill.run(config=("evaluate_minutes=120",)) != 0
    assert "budget of $0.50" in drill.said(), drill.said()
    assert not drill.fake.instances
    assert drill.fake.spent <= 0.5 and (drill.folder / "results/train/a/model").is_dir()
    drill.settings["budget"] = 5.0
    assert drill.run() == 0, drill.said()


@row("clock an hour behind")
def clock_behind(drill):
    wrong_clock(drill, -3600)


@row("clock an hour ahead")
def clock_ahead(drill):
    wrong_clock(drill, 3600)


def wrong_clock(drill: Drill, seconds: float) -> None:
    """What came home has the times of here: afterwards nothing looks older than its input."""
    drill.fake.fault("boot", times=None, clock_offset=seconds)
    began = time.time() - 60
    done(drill)
    made = [p for p in (drill.folder / "results").rglob("*") if p.is_file()]
    assert made and all(began < p.stat().st_mtime < time.time() + 60 for p in made)
    assert drill.run("-n", "--rerun-triggers", "mtime") == 0
    assert "Nothing to be done" in drill.said(), drill.said()


def play(name: str, folder) -> dict:
    """Run one row against a fake of its own; what it cost."""
    from tests.fakes.vast import FakeVast

    function, settings = ROWS[name]
    with FakeVast(time_scale=SCALE, limits=True) as fake:
        drill = Drill(fake, folder / "drill", **settings)
        began = time.monotonic()
        try:
            function(drill)
        finally:
            with contextlib.suppress(ProcessLookupError):
                if drill.process:
                    os.killpg(drill.process.pid, signal.SIGKILL)
        lines = [line for each in (drill, *drill.others) for line in each.ledger()]
        wasted = sum(x["dph"] * x["wasted"] / 3600 for x in lines if x["what"] == "attempt")
        return {
            "fault": name,
            "rented": sum(i.boots > 0 for i in fake.world.instances.values()),
            "attempts": sum(x["what"] == "attempt" for x in lines),
            "lost_steps": drill.lost_steps(),
            "wasted": round(wasted, 4),
            "spent": round(fake.spent, 4),
            "booked": round(sum(x["dollars"] for x in lines if x["what"] == "end"), 4),
            "seconds": round(time.monotonic() - began, 1),
            "left": len(fake.instances),
            "report": drill.report(),
            "ends": sorted({x["why"] for x in lines if x["what"] == "end"}),
            "reasons": sorted({x["why"] for x in lines if x["what"] == "attempt"} - {"done"}),
        }
