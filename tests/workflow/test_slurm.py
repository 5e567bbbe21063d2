"""Promises of `--profile slurm`, on a real cluster: jobs get GPUs, killed trainings go on."""

import json
import os
import re
import subprocess
import sys

import pytest
import slurm_cluster
import yaml
from conftest import Checkout, copy_of_the_repository

from ablation.training.checkpoints import complete_checkpoints

pytestmark = [pytest.mark.slurm, pytest.mark.study, pytest.mark.timeout(1500)]

STUDY = {
    "study": "small",
    "seeds": [1],
    "hardware": {"gpu": 1, "gpu_model": "fake", "gpu_mem_mb": 1, "mem_mb": 1500, "runtime": 30},
    "finetune": {"max_steps": 150, "log_steps": 5, "save_steps": 5, "eval_steps": 75},
    "recipes": {"3B": {"train_mask": "prefill_bidir"}},
    "evaluation": {"limit": 8},
}
RULES = {"stage1_baseline", "stage2_ablation", "stage3_finetune", "stage4_posteval"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    wanted = os.environ.get("ABLATION_SLURM") == "install"  # make test-slurm
    if wanted:
        slurm_cluster.install()
    if why := slurm_cluster.lacking():
        (pytest.fail if wanted else pytest.skip)(f"no SLURM cluster can be started: {why}")
    with slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def computing_on_the_cpu(checkout):
    """The node's GPUs are device files, which SLURM hands out and on which nothing can compute."""
    for name in ("evaluate", "finetune"):
        script = checkout.folder / f"workflow/scripts/{name}.py"
        text = script.read_text()
        assert 'config["hardware"]' in text
        script.write_text(text.replace('config["hardware"]', '{**config["hardware"], "gpu": 0}'))


def start(checkout, *options):
    """Snakemake with the profile as it is, asking more often than a busy cluster would like."""
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *options]
    command += ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]
    environment = os.environ | {"PYTHONPATH": str(checkout.folder / "src"), "HF_HUB_OFFLINE": "1"}
    with open(checkout.folder / "said.txt", "w") as said:
        return subprocess.Popen(
            command, cwd=checkout.folder, env=environment, stdout=said, stderr=said
        )


@pytest.fixture(scope="module")
def study(cluster, tmp_path_factory):
    """One run: its training is preempted once, then cancelled once."""
    checkout = Checkout(copy_of_the_repository(tmp_path_factory.mktemp("clone")))
    computing_on_the_cpu(checkout)
    (checkout.folder / "small.yaml").write_text(yaml.safe_dump(STUDY))
    run = start(checkout, "results/small/recovery.csv", "--configfile", "small.yaml")
    said = checkout.folder / "said.txt"

    def saved():
        """The step that the training would go on from."""
        assert run.poll() is None, said.read_text()
        homes = (checkout.folder / "state/small").glob("3B-1-*")
        states = [state for home in homes for state in complete_checkpoints(home)]
        return max((int(s.name.rpartition("-")[2]) for s in states), default=0)

    def ended(act):
        """End the training by `act`, when it has got on; its number, and the step it had saved."""
        before = saved()
        slurm_cluster.wait(lambda: saved() > before, "a state of the training", 500)
        job = cluster.running("stage3_finetune")
        restarts = cluster.jobs()[job]["Restarts"]
        cluster.ask(*act(job))

        def over():
            now = cluster.jobs()[job]
            return now["Restarts"] != restarts or now["JobState"] not in slurm_cluster.RUNNING

        slurm_cluster.wait(over, "its end")
        return job, saved()

    urgent = ["--partition=urgent", "--gpus=2", "--mem=100", "--output=/dev/null", "--wrap=true"]
    try:
        checkout.preempted = ended(lambda job: ["sbatch", *urgent])
        checkout.cancelled = ended(lambda job: ["scancel", job])
        assert run.wait(600) == 0, said.read_text()
    finally:
        run.kill()
    checkout.jobs, checkout.said = cluster.jobs(), said.read_text()
    return checkout


def of_rule(study, rule):
    return [job for job in study.jobs.values() if rule in job.get("Comment", "")]


def test_a_study_runs_to_its_table_without_accounting(study):
    assert (study.folder / "results/small/recovery.csv").is_file()
    assert "Falling back to 'sacct'" not in study.said  # which would wait for ever


def test_each_gpu_job_got_what_the_study_asks_for(study):
    for rule in RULES:
        (job, *_) = of_rule(study, rule)
        assert job["TresPerJob"] == "gres:gpu:fake:1", job
        assert (job["MinMemoryNode"], job["TimeLimit"]) == ("1500M", "00:30:00")


def test_what_needs_no_gpu_stays_here(study):
    sent = {
        re.match(r"rule_(\w+?)(_wildcards|$)", job["Comment"])[1] for job in of_rule(study, "rule_")
    }
    assert sent == RULES
    done = set(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", study.said))
    assert done - sent == {"base", "base_items", "base_instructions", "recovery"}


def test_a_preempted_training_goes_on_under_its_own_number(study):
    number, saved = study.preempted
    assert study.jobs[number]["Restarts"] == "1" and 0 < saved < study.cancelled[1]


def test_a_cancelled_training_is_sent_again_and_goes_on(study):
    number, saved = study.cancelled
    assert study.jobs[number]["JobState"] == "CANCELLED"
    first, second = of_rule(study, "stage3_finetune")
    assert {first["JobState"], second["JobState"]} == {"CANCELLED", "COMPLETED"}
    run = study.folder / "results/small/stage3_finetune/3B/seed1/run.json"
    record = json.loads(run.read_text())
    assert len(record["resumes"]) == 2  # from step 0 never again
    assert study.preempted[1] <= record["resumes"][0] < saved <= record["resumes"][1]


def test_it_ends_with_the_weights_of_an_undisturbed_training(study):
    made = "stage3_finetune/3B/seed1/manifest.json"
    options = ("--configfile", "small.yaml", "--config", "study=undisturbed")
    study.run(f"results/undisturbed/{made}", *options)  # on this machine, without SLURM
    manifests = [study.folder / "results" / name / made for name in ("small", "undisturbed")]
    ours, undisturbed = (json.loads(file.read_text())["outputs"] for file in manifests)
    assert ours["model/model.safetensors"] == undisturbed["model/model.safetensors"]


def test_without_slurm_the_packages_are_named(monkeypatch):
    monkeypatch.setattr(slurm_cluster, "PATH", "/nonexistent")
    why = slurm_cluster.lacking()
    assert "no slurmctld, slurmd" in why and all(name in why for name in slurm_cluster.PACKAGES)


def test_another_cluster_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm_cluster, "ETC", tmp_path)
    monkeypatch.setattr(slurm_cluster, "PROGRAMS", ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert slurm_cluster.lacking() == ""
    (tmp_path / "slurm.conf").write_text("ClusterName=theirs\n")
    assert f"{tmp_path}/slurm.conf is that of another cluster" in slurm_cluster.lacking()
