"""Promises of the wheel: with it alone, `ablation init` gives a study that runs as from a clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.e2e
FINGERPRINTS = """
import json, sys
from pathlib import Path
from ablation.config.merging import read_config_file
from ablation.provenance.code_hash import ROOT
from ablation.workflow.load import StudyWorkflow
found = {}
for name in ("study", "default"):
    file = Path(sys.argv[1]) if name == "study" else ROOT / "config/default.yaml"
    loaded = StudyWorkflow(read_config_file(file).values, ROOT, [file])
    prints = loaded.fingerprints
    for stage in ("base_items", "stage1_baseline", "recovery"):
        found[f"{name} {stage}"] = prints.of(stage)
    found |= {f"{name} {path}": made for path, made in prints.measured.items()}
print(ROOT, file=sys.stderr)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs a program of an environment in which the wheel is installed."""
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (home / "dist").glob("*.whl")
    assert wheel.name.startswith("ablation_studies-")
    venv.create(home / "venv", with_pip=False)
    (packages,) = (home / "venv/lib").glob("python*/site-packages")
    others = sysconfig.get_paths()["purelib"]
    (packages / "others.pth").write_text(f"import site; site.addsitedir({others!r})\n")
    python = home / "venv/bin/python"
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    subprocess.run(
        [python, *pip, "--quiet", "--ignore-installed", "--prefix", home / "venv", wheel],
        check=True,
    )

    def run(program, *arguments, cwd=home, status=0):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [home / "venv/bin/ablation"] if program == "ablation" else [python, *program]
        ran = subprocess.run(
            [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran

    return run


@pytest.fixture(scope="module")
def study(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "mystudy"
    installed("ablation", "init", "mystudy", cwd=folder.parent)
    return folder


SNAKEMAKE = ("-m", "snakemake")


def test_the_study_is_planned_and_its_baseline_scored_without_a_clone(installed, study):
    planned = installed(SNAKEMAKE, "-n", cwd=study)
    assert "stage3_finetune" in planned.stdout + planned.stderr
    baseline = "results/mystudy/stage1_baseline/manifest.json"
    installed(SNAKEMAKE, "--cores", "1", "--", baseline, cwd=study)
    manifest = json.loads((study / baseline).read_text())
    assert manifest["fingerprint"]["stage"] == "stage1_baseline"
    assert (study / "resources").resolve().is_relative_to(Path(study, "resources").readlink())
    run = json.loads((study / baseline).with_name("run.json").read_text())
    archived = (study / "resources").resolve().parent / ".git_archival.txt"
    commit = archived.read_text().strip()
    assert run["git_hash"] == (None if commit == "unknown" else commit)
    assert not (study / "resources").resolve().is_relative_to(ROOT)
    again = installed(SNAKEMAKE, "-n", "--", baseline, cwd=study)
    assert "Nothing to be done" in again.stdout + again.stderr
    installed("ablation", "studies", cwd=study)


def test_the_study_s_cost_is_estimated_without_a_clone(installed, study):
    said = installed("ablation", "plan", "--configfile", "config/study.yaml", "--json", cwd=study)
    plan = json.loads(said.stdout)
    assert plan["estimates"] and any("stage3" in job["name"] for job in plan["jobs"])


def test_fingerprints_are_those_of_a_clone(installed, study):
    """So results of one are not stale in the other."""
    packed = installed(("-c", FINGERPRINTS), "config/study.yaml", cwd=study)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", FINGERPRINTS, str(study / "config/study.yaml")]
    cloned = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert packed.stderr.split()[-1] != cloned.stderr.split()[-1] == str(ROOT)
    assert len(json.loads(cloned.stdout)) > 8
    assert json.loads(packed.stdout) == json.loads(cloned.stdout)


def test_a_copy_of_the_code_with_another_line_has_other_fingerprints(installed, study, tmp_path):
    """The comparison above can fail: it reads the code of the wheel."""
    before = json.loads(installed(("-c", FINGERPRINTS), "config/study.yaml", cwd=study).stdout)
    script = (study / "resources").resolve().parent / "workflow/scripts/evaluate.py"
    text = script.read_text()
    shutil.copy(script, tmp_path)
    try:
        script.write_text(f"{text}\nother = 1\n")
        after = json.loads(installed(("-c", FINGERPRINTS), "config/study.yaml", cwd=study).stdout)
    finally:
        script.write_text(text)
    stage = "study stage1_baseline"
    assert before[stage]["code"] != after[stage]["code"]
    assert before["study base_items"] == after["study base_items"]
