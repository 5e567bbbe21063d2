"""Faults of the driver and of its hold on machines: kills, sleep, the switch, unsaved work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from vast_support.scenarios import SCENARIOS, done, scenario

__all__ = ["SCENARIOS"]


def ended_and_again(example, *numbers: int) -> None:
    example.start().until_state()
    for number in numbers:
        example.signal(number)
        time.sleep(0.2)
    assert example.finish() != 0
    assert not example.fake.instances, "machines outlive the driver"
    assert example.run() == 0, example.output()


@scenario("driver SIGTERM")
def sigterm(example):
    ended_and_again(example, signal.SIGTERM)


@scenario("driver SIGHUP")
def sighup(example):
    ended_and_again(example, signal.SIGHUP)


@scenario("Ctrl-C during a status check")
def ctrl_c(example):
    ended_and_again(example, signal.SIGINT, signal.SIGINT)


@scenario("SIGKILL, then restart")
def sigkill(example):
    killed(example)
    continued(example)
    assert "saved state/a" in example.output(), example.output()


SLOW = ("seconds=0.8",)  # a training that does not end before its driver is killed


def reap(example, *options: str, code: int = 0) -> str:
    """Run the command; what it says. Machines are left only if it says so by its exit code."""
    environment = os.environ | example.fake.environment
    command = [sys.executable, "-m", "snakemake_executor_plugin_vast", "reap", *options]
    done = subprocess.run(
        command, cwd=example.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert bool(example.fake.instances) == bool(code)
    return done.stdout


def killed(example):
    """Kill the driver in mid-training; its machine."""
    example.start(config=SLOW).until_state()
    example.signal(signal.SIGKILL)
    example.finish()
    [instance] = example.fake.instances
    return instance


def saved_and_continued(example):
    """Save the state of a killed driver, and go on from that."""
    assert "saved state/a" in (said := reap(example)), said
    continued(example)


def continued(example):
    """Start again after a kill."""
    example.unlock()
    assert example.run(config=SLOW) == 0, example.output()


def stopped_with_its_price(example, said: str) -> None:
    """The only machine is stopped, costs its disk alone, and is listed with what to do."""
    [instance] = example.fake.instances
    assert not instance.uses_gpu and instance.intended_status == "stopped"
    price, name = 24 * instance.rates()["storage_total_cost"], example.fake.name_of(instance)
    assert f"(machine {name}) is stopped" in said and f"${price:.2f} a day" in said, said
    assert f"reap --destroy {name}`" in said


def killed_and_reaped(example, meanwhile=lambda instance: None):
    """Kill the driver, let something happen to its machine, save its state and go on from that."""
    meanwhile(killed(example).id)
    saved_and_continued(example)


@scenario("SIGKILL, then `snakemake-vast reap`")
def sigkill_reap(example):
    killed_and_reaped(example)


@scenario("SIGKILL and keys forgotten, then `snakemake-vast reap`", ("vast",))
def sigkill_keys_reap(example):
    killed_and_reaped(example, example.fake.forget_keys)


@scenario("SIGKILL and container exited, then `snakemake-vast reap`")
def sigkill_exited_reap(example):
    killed_and_reaped(example, example.fake.exit)


@scenario("SIGKILL and GPU let to others, then `snakemake-vast reap` twice", silent_minutes=4)
def sigkill_no_gpu_reap(example):
    """The machine stops itself, and its start waits until nobody else uses its GPU."""
    instance = killed(example)
    example.fake.wait(lambda: not instance.uses_gpu, 60, "the machine did not stop itself")
    example.fake.take(instance.offer.id)
    stopped_with_its_price(example, reap(example, code=1))
    example.fake.take(instance.offer.id, False)
    assert not instance.uses_gpu, "it waits for nobody and starts by itself"
    saved_and_continued(example)


@scenario("SIGKILL and ssh refused, then `snakemake-vast reap --destroy`")
def sigkill_no_login_reap(example):
    instance = killed(example)
    example.fake.cut_ssh(instance.id)
    stopped_with_its_price(example, reap(example, code=1))
    reap(example, "--destroy", example.fake.name_of(instance))
    continued(example)


@scenario("driver SIGTERM while ssh is dead")
def sigterm_no_login(example):
    """The machine is stopped with its state, which the next run saves."""
    example.start(config=SLOW).until_state()
    [instance] = example.fake.instances
    example.fake.cut_ssh(instance.id, "hang")
    example.signal(signal.SIGTERM)
    assert example.finish() != 0
    stopped_with_its_price(example, example.output())
    example.fake.mend_ssh(instance.id)
    assert example.run(config=SLOW) == 0, example.output()
    assert "saved state/a" in example.output(), example.output()


@scenario("SIGKILL, nobody restarts", silent_minutes=4)
def dead_man(example):
    instance = killed(example)
    example.fake.wait(lambda: not instance.uses_gpu, 60, "the machine did not stop itself")
    continued(example)
    assert "saved state/a" in example.output(), example.output()


def asleep_until(example, happened, instance) -> None:
    """Let this computer sleep in mid-training, until that has happened on the machine."""
    example.signal(signal.SIGSTOP)
    try:
        example.fake.wait(happened, 60, "nothing happened on the machine")
        example.fake.wait(lambda: not instance.uses_gpu, 60, "the machine did not stop itself")
    finally:
        example.signal(signal.SIGCONT)
    done(example)
    assert "its work is fetched" in example.output(), example.output()


@scenario("this computer sleeps, the job is ended", silent_minutes=4)
def asleep(example):
    example.start(config=SLOW).until_state()
    [instance] = example.fake.instances
    asleep_until(example, lambda: True, instance)


@scenario("this computer sleeps, the job ends", silent_minutes=12)
def asleep_to_the_end(example):
    """Its results are on a machine that has stopped itself, and are fetched from there."""
    example.start().until_step(8)
    [instance] = example.fake.instances
    jobs = example.fake.machine(instance.id).path(f"{example.folder}/.snakemake/vast/jobs")
    asleep_until(example, lambda: any(jobs.glob("*/exit.json")), instance)


@scenario("dead-man switch without its rights")
def switch_refused(example):
    """Its key is refused; the next machine's is not."""
    example.fake.fault("state", times=None, status=403)
    example.start()
    example.until(lambda: len(example.fake.world.instances) > 1, what="another machine")
    example.fake.clear("state")
    done(example)


@scenario("dead-man switch killed in mid-job")
def switch_killed(example):
    example.start(config=SLOW).until_state()
    [instance] = example.fake.instances
    [switch] = [
        pid
        for pid in example.fake.machine(instance.id).pids()
        if b"deadman.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    os.kill(switch, signal.SIGKILL)
    done(example)
