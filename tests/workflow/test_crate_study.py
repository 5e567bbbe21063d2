"""Promises of the crate with which `make study` ends, on the micro study's own results."""

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

# outside `make test`: validating a whole crate against every recommendation takes long
pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("micro"), pytest.mark.timeout(1800)]

DOCS = Path(__file__).resolve().parents[2] / "docs/crate.md"


@pytest.fixture
def results(micro):
    return micro.folder / "results"


@pytest.fixture
def entities(results):
    document = json.loads((results / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in document["@graph"]}


def test_it_is_valid(results, crate_findings):
    assert crate_findings(results) == []


def test_what_is_only_recommended_stands_in_the_manual(results, crate_findings):
    found = {check for check, _, _ in crate_findings(results, "RECOMMENDED")}
    told = set(re.findall(r"`([\w.-]+_\d+\.\d+)`", DOCS.read_text()))
    assert found <= told
    elsewhere = {"process-run-crate-0.5_7.1", "process-run-crate-0.5_11.1"}  # no git, a failure
    assert told - found <= elsewhere


def test_every_output_of_every_job_is_there_with_its_hash(micro, results, entities):
    files = {unquote(k): e for k, e in entities.items() if "File" in e["@type"]}
    for name, entity in files.items():
        content = (results / name).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest(), name
    ours = {p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file()}
    made = {n for n in ours if not n.startswith("_workflow/") and "/." not in n}
    made -= {"ro-crate-metadata.json", "report.html"}  # a page over all this, with its own clock
    assert made == {n for n in files if not n.startswith("_workflow/")}


def test_every_job_is_there_once(micro, entities):
    counted = micro.snakemake("--forceall", "--quiet", "reason", "-n").stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", counted.split("Job stats:")[1], re.M))
    runs = [name.split("/")[1] for name in entities if name.startswith("#run/")]
    for rule in set(jobs) - {"all", "total"}:
        assert runs.count(rule) == int(jobs[rule]), rule
    assert len(runs) == int(jobs["total"]) - 1


def test_the_next_crate_is_the_same(micro, results):
    path = results / "ro-crate-metadata.json"
    first = path.read_bytes()
    micro.snakemake("--reporter", "runcrate")
    assert path.read_bytes() == first


def test_results_of_another_configuration_make_no_crate(micro, results):
    path = results / "ro-crate-metadata.json"
    first = path.read_bytes()
    other = ("--config", "statistics={confidence: 0.9}")
    done = micro.snakemake("--reporter", "runcrate", *other, check=False)
    assert done.returncode and "no crate is written" in done.stderr
    assert "recovery.manifest.json" in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == first
