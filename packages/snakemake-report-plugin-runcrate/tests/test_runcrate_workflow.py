"""Promises to the user of any workflow, kept by real runs of `snakemake --reporter runcrate`."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

SNAKEFILE = """
rule all:
    input: "results/summary.txt", "results/parts"

rule split:
    '''Split a text into its lines.'''
    input: "data/text.txt"
    output: directory("results/parts")
    params: width=config.get("width", 2)
    shell: "mkdir {output} && split -l {params.width} {input} {output}/part-"

rule count:
    '''Count the words of each part.'''
    input: "results/parts"
    output: "results/counts/{kind}.csv"
    script: "scripts/count_words.py"

rule summary:
    input: "results/counts/words.csv"
    output: "results/summary.txt", scratch=temp("results/scratch.txt")
    shell: "wc -l < {input} > {output[0]}; touch {output.scratch}"
"""
SCRIPT = """
from pathlib import Path

from names import name_of

parts = sorted(Path(snakemake.input[0]).iterdir())
lines = [f"{name_of(part)},{len(part.read_text().split())}" for part in parts]
Path(snakemake.output[0]).write_text("\\n".join(lines) + "\\n")
"""


@pytest.fixture(autouse=True)
def no_other_plugin(monkeypatch):
    """What surrounds the tests changes nothing."""
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)


def finished_workflow(home, configured):
    """A workflow of three rules that has run, with a file of configuration or without one."""
    head = 'configfile: "config.yaml"\n' if configured else ""
    files = {
        "workflow/Snakefile": head + SNAKEFILE,
        "workflow/scripts/count_words.py": SCRIPT,
        "workflow/scripts/names.py": "def name_of(path):\n    return path.name\n",
        "data/text.txt": "a b\nc\nd e f\n",
        "LICENSE": "All rights reserved.\n",
    }
    if configured:
        files["config.yaml"] = "width: 2\nlayers: {first: [1, 2]}\n"
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    snakemake(home, "--cores", "1")
    return home


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    return finished_workflow(tmp_path_factory.mktemp("workflow") / "study", configured=True)


@pytest.fixture
def folder(finished_once, tmp_path):
    """A copy of the finished workflow, with its times of change."""
    return shutil.copytree(finished_once, tmp_path / "study")


def snakemake(folder, *arguments, check=True):
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def entities_of(crate):
    document = json.loads((crate / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in document["@graph"]}


def ids(value):
    return {found["@id"] for found in (value if isinstance(value, list) else [value])}


@pytest.mark.parametrize("configured", [True, False])
def test_any_workflow_becomes_a_valid_crate(request, tmp_path, configured, crate_findings):
    if configured:
        folder = request.getfixturevalue("folder")
    else:
        folder = finished_workflow(tmp_path / "study", configured)
    snakemake(folder, "--reporter", "runcrate")
    crate = folder / "results"
    first = (crate / "ro-crate-metadata.json").read_bytes()
    assert crate_findings(crate) == []

    entities = entities_of(crate)
    runs = [name for name in entities if name.startswith("#run/")]
    assert runs == ["#run/split", "#run/count/kind=words", "#run/summary"]
    assert all("startTime" in entities[name] for name in runs)
    assert ("#value/layers.first" in entities) == configured
    main = entities["_workflow/workflow/Snakefile"]
    assert ids(main["output"]) == {"#output/summary.txt", "#output/parts/"}
    assert entities["#elsewhere/data/text.txt"]["contentSize"] == "12"
    assert "_workflow/workflow/scripts/names.py" in entities  # which the script imports
    assert entities["./"]["license"] == {"@id": "_workflow/LICENSE"}
    for name, entity in entities.items():
        if "File" in entity["@type"]:
            content = (crate / unquote(name)).read_bytes()
            assert entity["sha256"] == hashlib.sha256(content).hexdigest(), name

    snakemake(folder, "--reporter", "runcrate")
    assert (crate / "ro-crate-metadata.json").read_bytes() == first


def test_only_the_jobs_behind_the_named_targets_are_described(folder):
    snakemake(folder, "results/parts", "--reporter", "runcrate")
    entities = entities_of(folder / "results")
    assert [name for name in entities if name.startswith("#run/")] == ["#run/split"]


def test_the_folder_of_the_crate_can_be_chosen(folder, crate_findings):
    snakemake(folder, "--reporter", "runcrate", "--report-runcrate-folder", ".")
    entities = entities_of(folder)
    assert {"workflow/Snakefile", "data/text.txt", "results/summary.txt"} < set(entities)
    assert not (folder / "_workflow").exists()
    assert crate_findings(folder) == []


def test_a_workflow_that_is_elsewhere_is_copied(folder, tmp_path_factory, crate_findings):
    place = tmp_path_factory.mktemp("place")
    (place / "data").mkdir()
    os.link(folder / "data/text.txt", place / "data/text.txt")
    os.link(folder / "config.yaml", place / "config.yaml")
    snakefile = ("--snakefile", str(folder / "workflow/Snakefile"))
    snakemake(place, *snakefile, "--cores", "1")
    snakemake(place, *snakefile, "--reporter", "runcrate")
    entities = entities_of(place / "results")
    assert {"_workflow/workflow/Snakefile", "_workflow/LICENSE"} < set(entities)
    assert str(place) not in json.dumps(entities) and str(folder) not in json.dumps(entities)
    assert crate_findings(place / "results") == []


def test_results_that_are_not_there_are_named(folder):
    shutil.rmtree(folder / "results")
    done = snakemake(folder, "--reporter", "runcrate", check=False)
    assert done.returncode and "Traceback" not in done.stderr
    assert "no crate is written: results/parts is missing" in done.stderr
    assert "snakemake --cores all results/parts" in done.stderr
    assert not (folder / "results").exists()


@pytest.mark.parametrize("change", ["params", "script", "input"])
def test_results_that_are_not_current_are_refused(folder, change):
    if change == "params":
        more = ["--config", "width=1"]
    elif change == "script":
        more, script = [], folder / "workflow/scripts/count_words.py"
        script.write_text(script.read_text() + "print('changed')\n")
    else:
        more = []
        (folder / "data/text.txt").write_text("another\n")
    done = snakemake(folder, "--reporter", "runcrate", *more, check=False)
    assert done.returncode and "Traceback" not in done.stderr
    named = {"params": "results/parts", "script": "results/counts", "input": "results/parts"}
    assert f"no crate is written: {named[change]}" in done.stderr
    assert "is not current, Snakemake would run" in done.stderr
    assert not (folder / "results/ro-crate-metadata.json").exists()


def test_snakemake_finds_the_reporter_and_waits_for_nothing():
    code = (
        "import sys\n"
        "from snakemake_interface_report_plugins.registry import ReportPluginRegistry\n"
        "before = set(sys.modules)\n"
        "import snakemake_report_plugin_runcrate\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new == {'snakemake_report_plugin_runcrate'}, new\n"
        "assert 'snakemake_report_plugin_runcrate.hooks' not in sys.modules\n"
        "assert ReportPluginRegistry().is_installed('runcrate')\n"
        "assert not {'ablation', 'rocrate', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_of_a_study_is_imported():
    package = Path(__file__).resolve().parents[1] / "src/snakemake_report_plugin_runcrate"
    lines = [line for file in package.glob("*.py") for line in file.read_text().splitlines()]
    assert not [line for line in lines if "import" in line and "ablation" in line]
