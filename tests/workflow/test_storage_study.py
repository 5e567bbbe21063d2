"""Promises of a study whose files are in a storage, with jobs on machines that share no folder.

Jobs run in empty folders (`tests/support/pods`). They get their sources and files from the storage.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import yaml
from conftest import ROOT, Checkout, copy_of_the_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STUDY = {
    "study": "small",
    "seeds": [1],
    "finetune": {
        **{"max_steps": 24, "warmup_steps": 4, "log_steps": 3, "save_steps": 3, "eval_steps": 6},
        "stops": {"no_learning": None},
    },
    "recipes": {"3B": {"train_mask": "prefill_bidir"}},
    "evaluation": {"limit": 4},
}
PLUGIN_FS = ["snakemake-storage-plugin-fs==1.1.3", "sysrsync==1.1.1"]
# Files that say what happened in a run: times, machines and, here, a lost training.
OF_A_RUN = ("run.json", "report/costs.html", "report/environment.html")
CURVES = "results/small/curves.csv"
OF_THE_LOSS = (
    *("curves.csv", "curves.manifest.json", "figures/curves."),
    *("report/manifest.json", "report/trainings.html"),
)


def checkout(folder):
    """A clone with the study; --deploy-sources sends the files that git lists."""
    made = Checkout(copy_of_the_repository(folder))
    (folder / "config/small.yaml").write_text(yaml.safe_dump(STUDY))
    for words in (["init", "-q"], ["add", "-A"], [*IDENTITY, "commit", "-qm", "study"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return made


IDENTITY = ["-c", "user.name=x", "-c", "user.email=x@example.org"]


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    """The study as it is made without a storage."""
    made = checkout(tmp_path_factory.mktemp("home") / "study")
    made.run("--configfile", "config/small.yaml")
    return made.folder


class Folder:
    """A storage of the plugin `fs`, which is not in the lock of the tests."""

    provider, variables = "fs", {}

    def __init__(self, folder, packages):
        self.folder, self.packages = folder, packages
        self.prefix = str(folder)

    def names(self):
        return {
            p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()
        }

    def read(self, name):
        return (self.folder / name).read_bytes()


class S3:
    """A storage of the plugin `s3`: moto's server, which checks signatures."""

    provider, prefix, packages = "s3", "s3://study/ours", ""

    def __init__(self, bucket):
        self.bucket, self.variables = bucket, bucket.for_snakemake

    def names(self):
        pages = self.bucket.s3.get_paginator("list_objects_v2").paginate(
            Bucket="study", Prefix="ours/"
        )
        entries = (entry for page in pages for entry in page.get("Contents", []))
        return {entry["Key"].removeprefix("ours/") for entry in entries}

    def read(self, name):
        return self.bucket.s3.get_object(Bucket="study", Key=f"ours/{name}")["Body"].read()


@contextmanager
def opened(provider, folder):
    if provider == "fs":
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*install, folder / "packages", *PLUGIN_FS], check=True)
        yield Folder(folder / "store", folder / "packages")
        return
    from fakes.bucket import Bucket

    with Bucket() as bucket:
        yield S3(bucket)


class Run:
    """Snakemake with `--executor pods` in a clone of its own."""

    def __init__(self, folder, storage):
        self.home, self.storage = checkout(folder / "study").folder, storage
        self.pods, self.said = folder / "pods", folder / "said.txt"
        self.pods.mkdir()

    def start(self, *options):
        command = [sys.executable, "-m", "snakemake", "--executor", "pods", "--jobs", "2"]
        command += ["--configfile", "config/small.yaml", "--retries", "1", *options]
        command += ["--default-storage-provider", self.storage.provider]
        command += ["--default-storage-prefix", self.storage.prefix]
        image = [self.home / "src", self.storage.packages]
        source = os.pathsep.join(map(str, filter(None, image)))
        environment = os.environ | self.storage.variables | {
            "PYTHONPATH": os.pathsep.join([source, str(ROOT / "tests/support/pods")]),
            **{"PODS": str(self.pods), "PODS_IMAGE": source, "AWS_EC2_METADATA_DISABLED": "true"},
        }  # fmt: skip
        with open(self.said, "w") as said:
            return subprocess.Popen(
                command, cwd=self.home, env=environment, stdout=said, stderr=said
            )

    def finish(self, process):
        code = process.wait()
        text = self.said.read_text()
        assert code == 0, text
        return text

    def lose_the_training(self, process):
        """Kill the pod of the training once one of its states is in the storage."""
        while process.poll() is None:
            states = (name for name in self.storage.names() if name.startswith("state/"))
            if any(name.endswith("/complete") for name in states):
                [pod] = self.pods.glob("stage3_finetune-*")
                os.killpg(int((pod / "pid").read_text()), signal.SIGKILL)
                shutil.rmtree(pod / "work", ignore_errors=True)
                return
            time.sleep(0.2)
        raise AssertionError(self.finish(process))


def equal(name):
    """Whether a file has the same bytes in every run of the study."""
    return not name.endswith(OF_A_RUN) and not name.startswith(
        tuple(f"results/small/{start}" for start in OF_THE_LOSS)
    )


@pytest.mark.parametrize("provider", ["fs", "s3"])
def test_a_study_in_a_storage(provider, at_home, tmp_path):
    with opened(provider, tmp_path) as storage:
        run = Run(tmp_path, storage)
        process = run.start()
        run.lose_the_training(process)
        run.finish(process)

        names = storage.names()
        results = {name for name in names if name.startswith("results/")}
        files = (path for path in at_home.glob("results/**/*") if path.is_file())
        made = {path.relative_to(at_home).as_posix() for path in files}
        assert results == made - {"results/README.md"}  # it is one of the repository's
        compared = set(filter(equal, results))
        manifests = {name for name in compared if name.endswith("manifest.json")}
        print(f"{provider}: {len(compared)} files of {len(results)}, {len(manifests)} manifests")
        assert len(manifests) > 20
        for name in sorted(compared):
            assert storage.read(name) == (at_home / name).read_bytes(), name
        assert not [name for name in results if b".snakemake/storage" in storage.read(name)]

        here, there = ((at_home / CURVES).read_bytes(), storage.read(CURVES))
        lost = [line for line in there.splitlines() if line not in here.splitlines()]
        assert lost and all(b"resumed" in line for line in lost)
        record = json.loads(storage.read("results/small/stage3_finetune/3B/seed1/run.json"))
        assert record["resumes"] and record["git_hash"]
        assert not [n for n in names if n.startswith("state/")], "a state that nobody needs is left"
        assert not list(run.home.glob("results/*/*"))

        assert "Nothing to be done" in run.finish(run.start("-n"))
        study = STUDY | {"evaluation": {"limit": 3}}
        (run.home / "config/small.yaml").write_text(yaml.safe_dump(study))
        counted = run.finish(run.start("-n")).split("Job stats:")[1].split("total")[0]
        assert "stage1_baseline" in counted and "stage3_finetune" not in counted

        for name in results:  # as docs/clouds.md says: bring them home, then verify
            (run.home / name).parent.mkdir(parents=True, exist_ok=True)
            (run.home / name).write_bytes(storage.read(name))
    (run.home / "config/small.yaml").write_text(yaml.safe_dump(STUDY))
    home = Checkout(run.home)
    home.ablation("verify", "--configfile", "config/small.yaml")
    cell = ("--where", "mask=prefill_bidir", "--where", "task=micro_piqa")
    cell += ("--where", "seed=1", "--column", "recovered")
    home.ablation("trace", *cell, "results/small/recovery.csv")
