"""Whole runs without faults: secrets, groups, overhead, several machines, no key for a dry run."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from fakes.vast import FakeVast, what_is_missing
from vast_support.workflows import SCALE, ExampleWorkflow, command_lines, expected_report

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
PASSWORD = "a-password-that-the-workflow-needs"


@pytest.fixture
def fake():
    with FakeVast(time_scale=SCALE) as service:
        yield service


def test_no_secret_is_anywhere(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    snakefile = example.folder / "Snakefile"
    snakefile.write_text('envvars:\n    "STUDY_PASSWORD",\n\n\n' + snakefile.read_text())
    seen, views, over = [], [], threading.Event()

    def watch():
        while not over.wait(0.05):
            seen.append(command_lines())
            views.append(json.dumps(fake.state()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    environment = {"STUDY_PASSWORD": PASSWORD}
    try:
        code = example.start("--printshellcmds", "--verbose", environment=environment).finish()
    finally:
        over.set()
        watcher.join()
    assert code == 0, example.output()
    assert any("onboard.py" in text for text in seen), "nothing was watched"
    written = [p for p in example.folder.rglob("*") if p.is_file() and ".git/" not in str(p)]
    assert len(written) > 20
    for secret in (fake.key, PASSWORD):
        assert not [p for p in written if secret.encode() in p.read_bytes()]
        assert not [text for text in (*seen, *views) if secret in text]
    private = [p for p in written if b"PRIVATE KEY" in p.read_bytes()]
    assert not private, "the run's ssh key is still there"


def test_what_only_the_group_reads_stays_on_the_machine(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    assert example.run("results/group/score.txt") == 0, example.output()
    assert (example.folder / "results/group/score.txt").read_text() == "100000\n"
    assert not (example.folder / "results/group/checkpoint").exists()
    assert len(fake.calls("create")) == 1
    again = example.run("results/group/score.txt", "-n")
    assert again == 0 and "Nothing to be done" in example.output()


def test_a_training_and_its_scoring_as_one_job_lose_a_machine_and_go_on(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example", interruptible=True)
    example.start("--groups", "train=one", "evaluate=one").until_state()
    fake.outbid(fake.instances[0].id)
    assert example.finish() == 0, example.output()
    assert example.report() == expected_report() and example.lost_steps() <= 12
    assert [a["why"] for a in attempts(example)] == ["outbid", "done"], "one job, twice"


def test_a_second_run_has_nothing_to_do_and_asks_nobody(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    assert example.run() == 0, example.output()
    asked = len(fake.requests)
    assert example.run() == 0
    assert len(fake.requests) == asked


def test_a_dry_run_needs_no_key(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    environment = {"VAST_API_KEY": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    assert example.start("-n", environment=environment).finish() == 0, example.output()
    code = example.start(environment=environment).finish()
    assert code != 0 and "no Vast.ai key in VAST_API_KEY" in example.output()


def test_wrong_key_ends_the_run_with_a_word(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    code = example.start(environment={"VAST_API_KEY": "wrong-key-wrong-key"}).finish()
    assert code != 0 and "auth_error" in example.output() and "wrong-key" not in example.output()


def test_preemptible_rules_get_interruptible_machines(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    assert example.run("--preemptible-rules", "train") == 0, example.output()
    bids = [call.body.get("price") for call in fake.calls("create")]
    assert len(bids) == 2 and bids[0] and bids[1] is None, "evaluate needs a steady machine"


def test_preemptible_retries_bound_how_often_a_job_bids(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example", lost_bids=5)
    example.start("--preemptible-rules", "train", "--preemptible-retries", "1").until_state()
    fake.outbid(fake.instances[0].id)
    assert example.finish() == 0, example.output()
    bids = [call.body.get("price") for call in fake.calls("create") if call.status == 200]
    assert len(bids) == 2 and bids[0] and bids[1] is None, "the second machine is a steady one"


MOMENTS = {
    "offers are searched": lambda fake: len(fake.calls("search")) > 1,  # the first is for the plan
    "a machine is asked for": lambda fake: fake.world.instances,
    "it is set up": lambda fake: any(i.uses_gpu for i in fake.instances),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_before_the_first_job_leaves_no_machine(fake, tmp_path, moment):
    example = ExampleWorkflow(fake, tmp_path / "example", setup="sleep 600")
    example.start().until(lambda: MOMENTS[moment](fake), what=moment)
    example.signal(signal.SIGINT)
    assert example.finish() != 0
    assert not fake.instances, example.output()
    assert re.search(r"this run: \d machines, .* h, \d attempts, \$", example.output()), (
        "what it has cost"
    )
    assert "all runs in example.jsonl: " in example.output()
    opened = {line["label"] for line in example.ledger() if line["what"] == "intend"}
    assert opened == {line["label"] for line in example.ledger() if line["what"] == "end"}


def attempts(example) -> list[dict]:
    return [line for line in example.ledger() if line["what"] == "attempt"]


def test_overhead_of_a_job_on_a_running_machine(fake, tmp_path):
    """Under 3 s beside what the job itself takes on the machine."""
    once = {"setup": "mkdir environment", "smoke": "test -d environment"}  # a second one would fail
    example = ExampleWorkflow(fake, tmp_path / "example", max_machines=1, **once)
    targets = [f"results/short/{n}.txt" for n in range(4)]
    assert example.run(*targets, config=("seconds=1",)) == 0, example.output()
    assert len(fake.calls("create")) == 1
    over = sorted((a["seconds"] - a["ran"]) / SCALE for a in attempts(example))
    print(f"overhead of a job on a running machine: {[round(s, 2) for s in over]} s")
    assert len(over) == 4 and over[1] < 3.0


def test_machines_are_busy(fake, tmp_path):
    """50 jobs over 4 machines: over 90 % of the time from a machine's first job to its last."""
    seconds = float(os.environ.get("BUSY_SECONDS", "6"))
    example = ExampleWorkflow(fake, tmp_path / "example", max_machines=4)
    targets = [f"results/short/{n}.txt" for n in range(50)]
    options = ("--scheduler", "greedy", "--jobs", "50", *targets)
    example.start(*options, config=(f"seconds={seconds}",))
    assert example.finish(900) == 0, example.output()
    busy = total = 0.0
    for label in {a["label"] for a in attempts(example)}:
        mine = [a for a in attempts(example) if a["label"] == label]
        first = min(a["time"] - a["seconds"] / SCALE for a in mine)
        total += max(a["time"] for a in mine) - first
        busy += sum(a["ran"] for a in mine) / SCALE
    machines = sum(call.status == 200 for call in fake.calls("create"))  # some may be told to wait
    print(f"50 jobs on {machines} machines: busy {100 * busy / total:.1f} % of the time")
    assert machines == 4 and busy / total > 0.9


def test_the_names_of_machines_follow_the_project(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "My Study_2")
    assert example.run("results/train/a/model") == 0, example.output()
    label = example.ledger()[0]["label"]
    assert re.fullmatch(r"my-study-2-[0-9a-f]{8}-1-1", label)


def test_the_reaper_leaves_living_runs_alone(fake, tmp_path):
    example = ExampleWorkflow(fake, tmp_path / "example")
    example.start().until_step(3)
    environment = os.environ | fake.environment
    command = [sys.executable, "-m", "snakemake_executor_plugin_vast", "reap"]
    done = subprocess.run(command, cwd=example.folder, env=environment, capture_output=True)
    assert done.returncode == 0 and len(fake.instances) == 1
    began = time.monotonic()
    assert example.finish() == 0 and time.monotonic() - began < 150
