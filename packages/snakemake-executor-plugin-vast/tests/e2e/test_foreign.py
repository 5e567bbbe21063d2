"""The wheel runs somebody else's workflow where nothing else of this repository is installed.

The environment links to the installed packages, so no network is needed. Without --vast-yes and a
terminal nothing is rented.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.vast import FakeVast, what_is_missing
from vast_support.workflows import SCALE

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
PACKAGE = Path(__file__).resolve().parents[2]
SITE_PACKAGES = [Path(path) for path in sys.path if path.endswith("site-packages")]
SNAKEFILE = """
rule all:
    input: "report.txt"

rule sample:
    output: "sample.txt"
    shell: "seq 1 10 > {output}"

rule fit:
    input: "sample.txt"
    output: "model.txt"
    resources: gpu=1, runtime=30
    shell: "nvidia-smi -L > {output} && wc -l < {input} >> {output}"

rule report:
    input: "model.txt"
    output: "report.txt"
    shell: "tail -n 1 {input} > {output}"
"""


def link_packages(folder: Path) -> None:
    """Link every installed package into `folder`, except this plugin and editable ones."""
    folder.mkdir()
    for place in SITE_PACKAGES:
        for entry in place.iterdir():
            editable = (entry / "direct_url.json").is_file() or entry.suffix == ".pth"
            ours = entry.name.startswith("snakemake_executor_plugin_vast")
            if not (editable or ours or (folder / entry.name).exists()):
                (folder / entry.name).symlink_to(entry)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the wheel of this plugin."""
    folder = tmp_path_factory.mktemp("foreign")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(PACKAGE)]
    subprocess.run([*pip, *build], check=True)
    [wheel] = folder.glob("snakemake_executor_plugin_vast-*.whl")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [site] = venv.glob("lib/python*/site-packages")
    link_packages(folder / "installed")
    (site / "installed.pth").write_text(f"{folder / 'installed'}\n")
    install = ["install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([*pip, *install], check=True)
    return venv / "bin/python"


@pytest.fixture
def snakemake(python, tmp_path):
    """A function that runs Snakemake on the workflow, and the fake that it rents from."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)

    def run(*arguments):
        options = [f"--vast-time-scale={SCALE}", "--vast-setup=true", "--vast-activate=true"]
        options.append("--vast-smoke=nvidia-smi -L")
        command = [str(python), "-m", "snakemake", "--executor", "vast", "--jobs", "2"]
        environment = os.environ | fake.environment
        return subprocess.run(
            [*command, *options, *arguments], cwd=tmp_path, env=environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=150,
        )  # fmt: skip

    with FakeVast(time_scale=SCALE) as fake:
        yield run, fake
        assert not fake.instances


def test_only_the_wheel_is_there(python):
    """Else the other tests of this file would prove nothing."""
    code = (
        "import importlib.metadata as m, importlib.util as u, snakemake_executor_plugin_vast as p;"
        "print(p.__file__);"
        "print([e.value for e in m.entry_points(group='snakemake_executor_plugin_vast.hooks')]);"
        "print(u.find_spec('ablation'))"
    )
    done = subprocess.run([python, "-c", code], cwd="/", capture_output=True, text=True)
    file, hooks, other = done.stdout.splitlines()
    assert file.startswith(str(python.parents[1])) and hooks == "[]" and other == "None"


def test_a_rule_with_a_gpu_runs_on_a_machine_and_the_others_here(snakemake, tmp_path):
    run, fake = snakemake
    done = run("--vast-yes", "--vast-budget", "5")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.txt").read_text() == "10\n"
    assert (tmp_path / "model.txt").read_text().startswith("GPU 0: NVIDIA")
    assert len(fake.calls("create")) == 1
    assert "1 jobs need a machine. They could cost up to $2.50" in done.stderr
    assert (tmp_path / "ledger/study.jsonl").is_file()


def test_without_a_terminal_and_a_yes_nothing_is_rented(snakemake, tmp_path):
    run, fake = snakemake
    done = run("--vast-budget", "5")
    assert done.returncode != 0 and "--vast-yes" in done.stderr
    assert not fake.calls("create") and (tmp_path / "sample.txt").is_file()


def test_the_command_that_ends_machines_is_installed(python, tmp_path):
    command = [str(python), "-m", "snakemake_executor_plugin_vast", "reap"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "no run has rented machines from this folder" in done.stdout
