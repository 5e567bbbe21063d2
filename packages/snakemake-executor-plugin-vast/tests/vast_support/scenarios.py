"""Faults, one function each: it causes the fault and runs the example to its end."""

import contextlib
import math
import os
import signal
import time

from vast_support.workflows import SCALE, ExampleWorkflow

SCENARIOS = {}
MARKETS = ("vast", "runpod")


def scenario(name: str, markets: tuple[str, ...] = MARKETS, **settings):
    """A fault that machines of these markets can have."""

    def add(function):
        SCENARIOS[name] = (function, markets, settings)
        return function

    return add


def done(example: ExampleWorkflow, *arguments: str, config: tuple = ()) -> None:
    code = example.run(*arguments, config=config) if not example.process else example.finish()
    assert code == 0, example.output()


@scenario("none")
def undisturbed(example):
    done(example)


@scenario("offer taken")
def offer_taken(example):
    example.fake.fault("create", taken=True)
    done(example)


@scenario("contract dearer than its offer")
def contract_dearer(example):
    example.fake.fault("create", dearer=1.05)
    done(example)


@scenario("search quota reached", ("vast",))
def search_quota(example):
    example.fake.api.daily_searches = 0
    assert example.run() != 0
    assert "allowed again from" in example.output() and not example.fake.instances
    assert len(example.fake.calls("search")) == 1
    example.fake.api.daily_searches = math.inf
    assert example.run() == 0, example.output()


@scenario("create 429")
def create_429(example):
    example.fake.fault("create", times=2, status=429)
    done(example)


@scenario("create 500")
def create_500(example):
    example.fake.fault("create", status=500)
    done(example)


@scenario("create's reply lost")
def reply_lost(example):
    example.fake.fault("create", lose_reply=True)
    done(example)
    assert len(example.fake.calls("create")) == 1, "rented twice"


@scenario("boot stuck", boot_minutes=6)
def boot_stuck(example):
    example.fake.fault("boot", stuck="loading")
    done(example)


@scenario("boot fatal")
def boot_fatal(example):
    example.fake.fault("boot", status_msg="Error: toomanyrequests: pull rate limit exceeded")
    done(example)


@scenario("ssh refused, then fine")
def ssh_refused(example):
    example.fake.fault("boot", ssh_refused=120)
    done(example)


@scenario("ssh dead in mid-job")
def ssh_dead(example):
    example.start().until_step(8)
    [instance] = example.fake.instances
    example.fake.cut_ssh(instance.id, "hang")
    time.sleep(2)
    example.fake.mend_ssh(instance.id)
    done(example)


@scenario("keys forgotten in mid-job", ("vast",))
def keys_forgotten(example):
    example.start().until_step(8)
    [instance] = example.fake.instances
    example.fake.forget_keys(instance.id)
    example.fake.cut_ssh(instance.id, "reset")
    done(example)
    assert len(example.fake.calls("ssh")) >= 2


@scenario("host vanished in mid-job")
def host_vanished(example):
    example.start().until_state()
    [instance] = example.fake.instances
    example.fake.vanish(instance.id, silently=True)
    done(example)


@scenario("container exited in mid-job")
def container_exited(example):
    example.start().until_state()
    [instance] = example.fake.instances
    example.fake.exit(instance.id)
    done(example)


@scenario("outbid in mid-job", ("vast",), interruptible=True)
def outbid(example):
    example.start().until_state()
    [instance] = example.fake.instances
    assert instance.price
    example.fake.outbid(instance.id)
    done(example)


@scenario("job stalls", stall_minutes=15)
def stalls(example):
    done(example, config=("trouble=stall",))


@scenario("job exit 1")
def job_fails(example):
    done(example, "--retries", "1", config=("trouble=exit",))


@scenario("output missing")
def output_missing(example):
    done(example, "--retries", "1", config=("trouble=output-missing",))


@scenario("flood", output_mib=1)
def flood(example):
    """A job prints without end, until its time is over. The next attempt does not."""
    config = ("trouble=flood", "train_minutes=15")
    done(example, "--retries", "1", config=config)
    most = max(log.stat().st_size for log in example.logs())
    assert 2**20 < most < 2**20 + 100, f"{most} bytes of its output were kept"
    assert "more is not kept here" in example.streamed()


@scenario("trickle", transfer_minutes=0.5, silent_minutes=120)
def trickle(example):
    """The transfer of the model would take six minutes."""
    example.start(config=("trouble=trickle",)).until_step(6)
    [instance] = example.fake.instances
    example.fake.trickle(instance.id, after=500_000)
    done(example)
    assert any(wire.slowed for wire in instance.machine.wires), "nothing was slow"
    assert "the transfer moved less than 1 MiB" in example.streamed(), "it ended by itself"


@scenario("odd rows in the list")
def odd_rows(example):
    example.fake.fault("list", times=None, odd=True)
    done(example)


@scenario("image without rsync")
def no_rsync(example):
    example.fake.fault("boot", lacks=["rsync"])
    done(example)


@scenario("image without rsync while apt is locked")
def apt_locked(example):
    example.fake.fault("boot", lacks=["rsync"], apt_lock=120)
    example.start().until_step(1)
    [instance] = example.fake.instances
    started = instance.machine.path("/var/log/onstart.log").read_text()
    assert "Could not get lock" in started, "apt was not locked"
    done(example)


@scenario("disk full")
def disk_full(example):
    example.fake.fault("boot", disk_mb=40)
    done(example, config=("trouble=disk",))


@scenario("destroy fails 3 times")
def destroy_fails(example):
    example.fake.fault("destroy", times=3, status=500)
    done(example)


@scenario("API down for a while")
def api_down(example):
    example.start().until_step(6)
    example.fake.fault("api", times=None, status=503)
    time.sleep(4)
    example.fake.clear("api")
    done(example)


@scenario("two drivers at once")
def two_drivers(example):
    other = ExampleWorkflow(example.fake, example.folder.parent / "other")
    example.start()
    other.start()
    assert other.finish() == 0, other.output()
    done(example)
    assert other.report() == example.report()
    example.others = [other]


@scenario("budget reached", budget=0.6, setup_minutes=5)
def budget(example):
    """It pays for the training (60 min and start-up), not for an evaluation of up to 240 min."""
    assert example.run(config=("evaluate_minutes=240",)) != 0
    assert "budget of $0.60" in example.output(), example.output()
    assert not example.fake.instances
    assert example.fake.spent <= 0.6 and (example.folder / "results/train/a/model").is_dir()
    example.settings["budget"] = 5.0
    assert example.run() == 0, example.output()


@scenario("clock an hour behind")
def clock_behind(example):
    wrong_clock(example, -3600)


@scenario("clock an hour ahead")
def clock_ahead(example):
    wrong_clock(example, 3600)


def wrong_clock(example: ExampleWorkflow, seconds: float) -> None:
    """What came home has the times of here: afterwards nothing looks older than its input."""
    example.fake.fault("boot", times=None, clock_offset=seconds)
    began = time.time() - 60
    done(example)
    made = [p for p in (example.folder / "results").rglob("*") if p.is_file()]
    assert made and all(began < p.stat().st_mtime < time.time() + 60 for p in made)
    assert example.run("-n", "--rerun-triggers", "mtime") == 0
    assert "Nothing to be done" in example.output(), example.output()


def run_scenario(name: str, folder, market: str = "vast") -> dict:
    """Run a scenario on a fake of its own; what happened, and what it cost."""
    from fakes.runpod import FakeRunPod
    from fakes.vast import FakeVast

    function, _, settings = SCENARIOS[name]
    service = {"vast": FakeVast, "runpod": FakeRunPod}[market]
    with service(time_scale=SCALE, limits=True) as fake:
        example = ExampleWorkflow(fake, folder / "example", **settings)
        began = time.monotonic()
        try:
            function(example)
        finally:
            with contextlib.suppress(ProcessLookupError):
                if example.process:
                    os.killpg(example.process.pid, signal.SIGKILL)
        lines = [line for each in (example, *example.others) for line in each.ledger()]
        wasted = sum(x["dph"] * x["wasted"] / 3600 for x in lines if x["what"] == "attempt")
        return {
            "fault": name,
            "market": market,
            "rented": sum(i.boots > 0 for i in fake.world.instances.values()),
            "attempts": sum(x["what"] == "attempt" for x in lines),
            "lost_steps": example.lost_steps(),
            "wasted": round(wasted, 4),
            "spent": round(fake.spent, 4),
            "booked": round(sum(x["dollars"] for x in lines if x["what"] == "end"), 4),
            "seconds": round(time.monotonic() - began, 1),
            "left": len(fake.instances),
            "report": example.report(),
            "ends": sorted({x["why"] for x in lines if x["what"] == "end"}),
            "reasons": sorted({x["why"] for x in lines if x["what"] == "attempt"} - {"done"}),
        }
