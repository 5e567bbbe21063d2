"""Promises of the study's hook: what manifests, run records, ledger and git say is in the crate."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from snakemake_report_plugin_runcrate.hooks import Job, StaleResult, Workflow
from snakemake_report_plugin_runcrate.runs import WORKFLOW_COPY as COPY_OF_THE_CRATE
from snakemake_report_plugin_runcrate.runs import Recorded
from snakemake_report_plugin_runcrate.testing import figures, references
from snakemake_report_plugin_runcrate.write import write_crate

from ablation.config.load import load_study
from ablation.lineage.accept import NothingToAccept, accept
from ablation.lineage.snapshots import study_folder
from ablation.provenance.files import sha256_text, write_json
from ablation.provenance.manifests import WORKFLOW_COPY, write_manifest
from ablation.workflow.hooks.runcrate import StudyRecords

CONFIG = Path(__file__).resolve().parents[4] / "config"
STUDY = load_study({"study": "tiny"}, CONFIG)
FAILED = "http://schema.org/FailedActionStatus"
MODEL = "results/tiny/stage3/3A/model/model.safetensors"
RUN = {
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 60.5,
    "host": "box",
    "processor": "CPU",
    "processors": 2,
    "python": "3.11.7",
    "git_hash": "c0ffee",
    "git_dirty": True,
    "attempt": "run-2",
    "energy_joules": 1200.0,
    "gpus": [{"name": "H100"}],
}
LEDGER = [
    {"what": "intend", "label": "m-1"},
    {"what": "attempt", "attempt": "run-1", "job": "train", "why": "outbid", "seconds": 30.0}
    | {"dollars": 0.25, "time": 1767322000.0},
    {"what": "attempt", "attempt": "run-2", "job": "train", "why": "done", "seconds": 61.0}
    | {"dollars": 0.5, "time": 1767323105.0},
    {"what": "end", "label": "m-1", "dollars": 1.0},
]


def make_fingerprint(stage, **upstream):
    body = {"stage": stage, "code": "c", "config": {}, "upstream": upstream}
    body |= {"packages": {"torch": "2.13.0"}}
    return body | {"hash": sha256_text(stage)}


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A repository of three rules with finished results, one of them from a rented machine."""
    monkeypatch.chdir(tmp_path)
    sources = {
        "Snakefile": 'include: "rules/all.smk"\n',
        "rules/all.smk": "rule train: ...\n",
        "workflow/scripts/train.py": "train()\n",
        "config/default.yaml": "study: tiny\n",
        "resources/prompt file.txt": "?\n",
        "environment.yml": "name: ablation\n",
        "CITATION.cff": "license: Apache-2.0\ntitle: tiny\nauthors:\n"
        "  - {given-names: Ada, family-names: L, affiliation: The Engine}\n  - {name: A group}\n",
        "results/tiny/table.csv": "a,b\n1,2\n",
        MODEL: "weights",
    }
    for name, text in sources.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    home = "results/tiny/stage3/3A"
    write_manifest(f"{home}/manifest.json", make_fingerprint("train"), [f"{home}/model"])
    write_json(f"{home}/run.json", RUN)
    Path("results/table.csv").write_text("a,b\n1,2\n")
    Path("ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LEDGER))
    train = Job(
        rule="train",
        description="A checkpoint.",
        snakefile="rules/all.smk",
        script="workflow/scripts/train.py",
        wildcards={"recipe": "3A"},
        inputs=("resources/prompt file.txt",),
        outputs=(f"{home}/model", f"{home}/manifest.json", f"{home}/run.json"),
        params={"fingerprint": json.dumps(make_fingerprint("train"))},
    )
    table = Job(
        rule="table",
        description="A table.",
        snakefile="rules/all.smk",
        inputs=(f"{home}/manifest.json",),
        outputs=("results/tiny/table.csv",),
        times=(1767323200.0, 1767323201.0),
    )
    named = Job(
        rule="named",
        description="Its copy.",
        snakefile="rules/all.smk",
        inputs=("results/tiny/table.csv",),
        outputs=("results/table.csv",),
        times=(1767323202.0, 1767323203.0),
    )
    return [train, table, named]


def written(jobs, variables=None, ledger="ledger.jsonl"):
    """{@id: entity} of the crate of these jobs."""
    workflow = Workflow(
        snakefile="Snakefile",
        config={},
        variables={"STUDY": STUDY} if variables is None else variables,
        targets=("results/table.csv",),
        ledger=ledger,
    )
    path = write_crate(Recorded("repository", workflow, jobs, {"Snakefile": "Snakefile"}), None)
    return {entity["@id"]: entity for entity in json.loads(path.read_text())["@graph"]}


# ---- validity ------------------------------------------------------------------------------------


def test_a_crate_is_valid(jobs, crate_findings):
    written(jobs)
    assert crate_findings("results") == []


def test_a_seal_and_its_signature_are_in_the_crate_where_they_stand(jobs, crate_findings):
    for name in ("seal.json", "seal.json.sig"):
        Path(f"results/tiny/{name}").write_text(name)
    entities = written(jobs)
    for name in ("seal.json", "seal.json.sig"):
        assert entities[f"tiny/{name}"]["sha256"] == hashlib.sha256(name.encode()).hexdigest()
    assert crate_findings("results") == []


# ---- completeness --------------------------------------------------------------------------------


def test_every_file_stands_there_with_its_hash_and_size(jobs):
    files = {k: e for k, e in written(jobs).items() if "File" in e["@type"]}
    assert "_workflow/resources/prompt%20file.txt" in files
    for name, entity in files.items():
        content = Path("results", unquote(name)).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert entity["contentSize"] == str(len(content)), name


def test_a_job_leads_from_its_files_to_its_script_machine_and_commit(jobs):
    entities = written(jobs)
    run = entities["#run/train/recipe=3A"]
    assert references(run["instrument"]) == {"_workflow/workflow/scripts/train.py"}
    assert references(run["object"]) == {
        "_workflow/resources/prompt%20file.txt",
        "#wildcard/recipe/3A",
        "#used/git%20commit%20c0ffee%2C%20with%20uncommitted%20changes/c0ffee",
    }
    assert MODEL.removeprefix("results/") in references(run["result"])
    assert (run["startTime"], run["endTime"]) == (
        "2026-01-02T03:04:05+00:00",
        "2026-01-02T03:05:05+00:00",
    )
    (place,) = references(run["location"])
    assert entities[place]["name"] == "box" and "H100" in entities[place]["description"]
    script = entities["_workflow/workflow/scripts/train.py"]
    (package,) = references(script["softwareRequirements"])
    assert (entities[package]["name"], entities[package]["softwareVersion"]) == ("torch", "2.13.0")


def test_equal_names_of_different_machines_are_told_apart(jobs):
    other = Path("results/tiny/stage3/3B")
    write_manifest(other / "manifest.json", make_fingerprint("train"), [])
    write_json(other / "run.json", RUN | {"gpus": [{"name": "A100"}]})
    outputs = tuple(str(other / n) for n in ("manifest.json", "run.json"))
    recipe = {"recipe": "3B"}
    again = replace(jobs[0], outputs=outputs, wildcards=recipe)
    entities = written([*jobs, again])
    assert len({name for name in entities if name.startswith("#machine/box/")}) == 2


def test_a_model_of_the_hub_stands_there_at_its_commit(jobs):
    home, commit = "results/tiny/stage3/3A", "c" * 40
    facts = {"model": "owner/name", "model_sha": commit, "files": {}}
    write_manifest(f"{home}/manifest.json", make_fingerprint("train"), [f"{home}/model"], **facts)
    entities = written(jobs)
    address = f"https://huggingface.co/owner/name/tree/{commit}"
    assert entities[address]["version"] == commit
    assert address in references(entities["#run/train/recipe=3A"]["object"])


def test_the_resolved_configuration_is_there_key_by_key(jobs):
    entities = written(jobs)
    assert entities["#value/study"]["value"] == "tiny"
    assert entities["#value/finetune.learning_rate"]["value"] == STUDY.finetune.learning_rate
    assert references(entities["#workflow-run"]["object"]) >= {"#value/finetune.learning_rate"}


# ---- attempts, energy, dollars -------------------------------------------------------------------


def test_a_failed_attempt_is_told_with_its_reason_and_cost(jobs):
    entities = written(jobs)
    failed = entities["#run/run-1"]
    assert (failed["actionStatus"], failed["error"]) == (FAILED, "outbid")
    assert figures(entities, failed) == {"seconds": (30.0, "SEC"), "dollars": (0.25, "USD")}
    assert failed["endTime"] == "2026-01-02T02:46:40+00:00"
    control = entities["#control/train/recipe=3A"]
    assert references(control["object"]) == {"#run/run-1", "#run/train/recipe=3A"}
    done = entities["#run/train/recipe=3A"]
    assert done["actionStatus"] != FAILED and "error" not in done


def test_energy_and_dollars_are_those_of_the_records(jobs):
    entities = written(jobs)
    spent = {"seconds": (60.5, "SEC"), "energy_joules": (1200.0, "J"), "dollars": (0.5, "USD")}
    assert figures(entities, entities["#run/train/recipe=3A"]) == spent
    # Two jobs have no run record, and took a second each; machines are also paid while they start.
    in_all = spent | {"seconds": (62.5, "SEC"), "dollars": (1.0, "USD")}
    assert figures(entities, entities["#workflow-run"]) == in_all


def test_without_a_ledger_no_dollar_is_claimed(jobs):
    entities = written(jobs, ledger="none.jsonl")
    assert not [name for name in entities if name.startswith("#usage") and "dollars" in name]
    assert not [e for e in entities.values() if e.get("actionStatus") == FAILED]


# ---- stability and refusals ----------------------------------------------------------------------


def test_equal_records_give_equal_bytes(jobs):
    written(jobs)
    first = Path("results/ro-crate-metadata.json").read_bytes()
    os.utime(MODEL, (1, 1))
    Path("results/_workflow/left over.txt").write_text("of an earlier crate")
    written(jobs)
    assert Path("results/ro-crate-metadata.json").read_bytes() == first
    assert not Path("results/_workflow/left over.txt").exists()


def test_weights_that_are_gone_are_named_by_their_hash(jobs, crate_findings):
    Path(MODEL).unlink()
    entities = written(jobs)
    gone = entities["#elsewhere/results/tiny/stage3/3A/model/model.safetensors"]
    assert gone["@type"] == "CreativeWork"
    assert gone["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert crate_findings("results") == []


@pytest.mark.parametrize("damage", ["fingerprint", "missing", "size"])
def test_stale_results_are_refused_by_name(jobs, damage):
    if damage == "fingerprint":
        other = json.dumps(make_fingerprint("train") | {"hash": "other"})
        jobs[0] = replace(jobs[0], params={"fingerprint": other})
    elif damage == "missing":
        Path("results/tiny/table.csv").unlink()
    else:
        Path(MODEL).write_text("other weights")
    named = {
        "fingerprint": "3A/manifest.json",
        "missing": "tiny/table.csv",
        "size": "model.safetensors",
    }
    with pytest.raises(StaleResult, match=named[damage]):
        written(jobs)
    assert not Path("results/ro-crate-metadata.json").exists()


def test_a_run_record_that_was_cut_off_is_named(jobs):
    record = next(path for job in jobs for path in job.outputs if path.endswith("run.json"))
    Path(record).write_text("{")
    with pytest.raises(StaleResult, match=f"{record} is no run record"):
        written(jobs)


def test_the_copied_workflow_is_no_study(jobs):
    Path("resources/micro").mkdir()
    write_manifest("resources/micro/manifest.json", make_fingerprint("base_pretrain"), [])
    written(jobs)
    assert COPY_OF_THE_CRATE == WORKFLOW_COPY
    assert Path("results/_workflow/resources/micro/manifest.json").is_file()
    assert study_folder(Path("results")) == Path("results/tiny")
    with pytest.raises(NothingToAccept, match="those of: train"):
        accept("base_pretrain", "a copy has no results", ".", "results")


@pytest.mark.parametrize("study", [None, "micro", 3, {"study": "micro"}])
def test_another_workflow_gets_nothing_of_the_study(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/default.yaml").write_text("[no: study")
    variables = {} if study is None else {"STUDY": study}
    assert StudyRecords().run_facts(Workflow("Snakefile", {}, variables, ())) is None


def test_a_ledger_that_cannot_be_read_is_named(jobs):
    Path("ledger.jsonl").write_text("no json\n{}\n")
    with pytest.raises(StaleResult, match=r"ledger\.jsonl, line 1"):
        written(jobs)
