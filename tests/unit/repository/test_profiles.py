"""Promises of profiles: a name finds them, hardware is the study's, dry runs need no network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from tests.dry_run import dry_run

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(p.parent.name for p in ROOT.glob("profiles/*/config.yaml"))
# Without the hub, without a key, and with an empty home folder.
ALONE = {"HF_HUB_OFFLINE": "1", "HOME": "/nonexistent", "VAST_API_KEY": ""}
MODEL_JOBS = {"stage1_baseline", "stage2_ablation", "stage3_finetune", "stage4_posteval"}
MODEL_JOBS |= {"stage5_longrun", "stage5_posteval"}


# A sitecustomize.py that ends each Python process that looks up a name or opens a connection.
NO_NETWORK = """import os, socket
def refuse(*arguments, **more):
    os.write(2, b"the network was used\\n")
    os._exit(99)
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


def snakemake(*arguments, check=True, **environment):
    """What Snakemake prints; a process of its own if the environment has something to say."""
    source = {"PYTHONPATH": str(ROOT / "src")}
    whole = os.environ | ALONE | source | environment
    if "-n" in arguments and not environment:
        done = dry_run(arguments, ROOT, whole)
    else:
        command = [sys.executable, "-m", "snakemake", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=whole, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def entries(name):
    return (ROOT / "profiles" / name / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["default", "gpu", "slurm", "vast"])
def test_a_profile_is_linked_from_the_root_where_snakemake_looks_up_its_name(name):
    assert os.readlink(ROOT / name) == f"profiles/{name}"


def test_the_profiles_exist():
    assert {"default", "gpu", "slurm"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_of_a_profile_has_a_comment_above_it(name):
    lines = entries(name).splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[\w-]+:", line):
            assert lines[number - 1].startswith("#"), line


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_does_not_set_the_hardware_of_jobs(name):
    """The study sets the hardware; a profile sets where jobs run and what they may cost."""
    hardware = {"gpu_model", "gpu_mem_mb", "mem_mb", "disk_mb", "runtime"}
    assert not hardware & set(yaml.safe_load(entries(name)).get("default-resources") or ())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "default"])
def test_a_dry_run_of_the_real_study_needs_no_key_no_network_and_no_hub(name, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    alone = {
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "0",
    }  # nothing tells the process that the hub is offline
    text = snakemake("--profile", name, "-n", "results/recovery.csv", **alone)
    assert "results/ministral3b/recovery.csv" in text and "This was a dry-run" in text
    jobs = text.split("Job stats:")[1].split("total")[0]
    assert set(re.findall(r"^(stage\w+(?<!_metrics)) +\d+$", jobs, re.M)) == MODEL_JOBS
    pins = yaml.safe_load((ROOT / "config/ministral3b.yaml").read_text())["pins"]
    lacking = sum(commit is None for commit in pins.values())
    warning = f"{lacking} hub repositories have no commit yet"
    assert (warning in text) == (lacking > 0)


def test_a_training_and_its_scoring_can_be_one_job(tmp_path):
    """With the groups that a comment in the vast profile proposes."""
    proposed = re.findall(r"^# (groups:(?:\n#   \w+: \w+)+)", entries("vast"), re.M)
    groups = yaml.safe_load(proposed[0].replace("\n#", "\n"))["groups"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"executor": "vast", "groups": groups}))
    study = ("--configfile", "config/ministral3b.yaml", "--jobs", "4")
    text = snakemake("--profile", str(tmp_path), "-n", "results/recovery.csv", *study)
    real = yaml.safe_load((ROOT / "config/ministral3b.yaml").read_text())
    trained = {"short": 0, "long": 0}
    for recipe in real["recipes"]:
        trained["long" if recipe.startswith("5") else "short"] += len(real["seeds"])
    for name, rules in {"short": "Stage [34]", "long": "Stage 5"}.items():
        jobs = text.split(f"Group job {name} ")[1:]
        assert len(jobs) == trained[name], "one a recipe and seed"
        assert all(len(re.findall(rf"^    Job \d+: {rules}", job, re.M)) == 2 for job in jobs)


def test_the_command_line_chooses_another_study():
    text = snakemake(
        *("--profile", "slurm", "-n", "results/recovery.csv"),
        *("--configfile", "config/default.yaml", "--config", "study=other"),
    )
    assert "results/other/recovery.csv" in text and "ministral3b/" not in text


def test_a_real_run_of_an_unpinned_study_is_refused_before_anything_runs(tmp_path):
    study = "study: unpinned\nbase: owner/model\npins: {owner/model: null}\n"
    (tmp_path / "study.yaml").write_text(study)
    file, target = tmp_path / "study.yaml", "results/unpinned/base/manifest.json"
    planned = snakemake("-n", target, "--configfile", str(file))
    assert "1 hub repositories have no commit yet" in planned and "This was a dry-run" in planned
    refused = snakemake("--cores", "1", target, "--configfile", str(file), check=False)
    assert "pins.owner/model" in refused and "`ablation pin FILE`" in refused
    assert "Finished job" not in refused and not (ROOT / "results/unpinned").exists()


@pytest.mark.parametrize("named", [False, True])
def test_a_warning_names_the_results_that_a_file_without_a_study_replaces(tmp_path, named):
    file = tmp_path / "mine.yaml"
    file.write_text("seeds: [1]\n" + "study: mine\n" * named)
    output = snakemake("-n", "stage1", "--configfile", str(file))
    assert ("Its results replace those of micro" in output) != named


def test_only_a_dry_run_may_leave_pins_open():
    loose = {"extends": "ministral3b.yaml", "pins": {"yahma/alpaca-cleaned": "main"}}
    study = load_study(loose, ROOT / "config", pinned=False)
    assert study.pins["yahma/alpaca-cleaned"] == "main"
    with pytest.raises(ConfigError, match="pins.yahma/alpaca-cleaned"):
        load_study(loose, ROOT / "config")


# ---- the resources of a job ---------------------------------------------------------------------


def hardware(**changed):
    values = {"hardware": changed, "finetune": {"micro_batch_examples": 3}}
    return load_study(values, ROOT / "config").hardware


def test_a_gpu_job_requests_hardware_and_no_place():
    asked = hardware(gpu=1, gpu_model="h100", gpu_mem_mb=79000, runtime=5).resources()
    assert asked == {
        "gpu": 1,
        "gpu_model": "h100",
        "gpu_mem_mb": 79000,
        "mem_mb": 2000,
        "disk_mb": 10000,
        "runtime": 5,
    }


def test_a_job_without_a_gpu_requests_no_gpu_model():
    asked = hardware(gpu=0, gpu_model="h100", gpu_mem_mb=79000).resources()
    assert asked["gpu"] == 0 and not {"gpu_model", "gpu_mem_mb"} & set(asked)


def test_requested_memory_disk_time_and_model_make_nothing_stale():
    plain, more = hardware(), hardware(mem_mb=9, disk_mb=9, runtime=9, gpu_mem_mb=9, gpu_model="x")
    assert (
        plain.affecting_results() == more.affecting_results() != hardware(gpu=1).affecting_results()
    )


def test_how_many_machines_and_cards_share_a_job_makes_nothing_stale():
    plain, shared = hardware(gpu=4), hardware(gpu=4, nodes=2, scoring_gpus=4)
    assert plain.affecting_results() == shared.affecting_results()
    assert plain.of_scoring().affecting_results() == shared.of_scoring().affecting_results()
    kept = hardware(gpu=4, keep_gathered=True)  # sums in another order, in trainings only
    assert plain.affecting_results() != kept.affecting_results()
    assert plain.of_scoring().affecting_results() == kept.of_scoring().affecting_results()
    scored = shared.scoring_resources()
    assert scored["gpu"] == 4 and not {"nodes", "mpi", "tasks", "slurm_extra"} & set(scored)
    assert plain.scoring_resources()["gpu"] == 1 and hardware().scoring_resources()["gpu"] == 0


class Resources(dict):
    """Resources as the SLURM executor reads them."""

    __getattr__ = dict.get


def test_slurm_is_asked_for_machines_with_as_many_gpus_each():
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string
    from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

    asked = hardware(gpu=8, nodes=2, gpu_model="h100", mem_mb=90_000, runtime=60).resources()
    job = SimpleNamespace(resources=Resources(asked), threads=8)
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    validate_slurm_extra(job)
    command = get_submit_command(job, dict.fromkeys(names, ""), None) + set_gres_string(job)
    words = command.split()
    assert asked["mpi"] == "srun"  # otherwise the plugin would start the job as one task by srun
    for word in ("--nodes=2", "--ntasks=2", "--gpus-per-node=4", "--gpus=h100:8"):
        assert words.count(word) == 1, command
    assert "--ntasks-per-gpu" not in command and "--cpus-per-task=8" in words


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"gpu": 3, "nodes": 2}, "3 GPUs .* cannot be spread evenly over 2 machines"),
        ({"gpu": 0, "nodes": 2}, "0 GPUs .* cannot be spread evenly over 2 machines"),
        ({"gpu": 0, "scoring_gpus": 2}, "the study runs on the CPU"),
        ({"gpu": 1, "keep_gathered": True}, r"1 GPU\(s\) .* share no weights"),
    ],
)
def test_machines_and_cards_without_gpus_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        hardware(**changes)


def test_rules_name_no_partition_account_price_or_region():
    places = r"\b(slurm_\w+|vast_\w+|partition|account|price|max_price|region|geolocation)\s*="
    for file in [*(ROOT / "rules").glob("*.smk"), ROOT / "Snakefile"]:
        assert not re.search(places, file.read_text()), file
