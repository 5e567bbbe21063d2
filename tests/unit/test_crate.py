"""Promises of the RO-Crate: valid, complete, equal for equal records, and refused when stale."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation import provenance
from ablation.accept import NothingToAccept, accept
from ablation.provenance import StaleInput
from ablation.sides import _study_folder
from snakemake_report_plugin_rocrate.runs import Job
from snakemake_report_plugin_rocrate.write import flat, write_crate

STUDY = {
    "study": "tiny",
    "seeds": [1],
    "limit": None,
    "finetune": {"learning_rate": 1e-3, "max_steps": 5, "fused": True},
}
COMPLETED, FAILED = (f"http://schema.org/{s}ActionStatus" for s in ("Completed", "Failed"))
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


def stamp(stage, **upstream):
    body = {"stage": stage, "config": {}, "packages": {"torch": "2.13.0"}, "upstream": upstream}
    return body | {"hash": provenance.sha256_text(stage)}


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
    provenance.write_manifest(f"{home}/manifest.json", stamp("train"), [f"{home}/model"])
    provenance.write_json(f"{home}/run.json", RUN)
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
        stamp=json.dumps(stamp("train")),
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


def written(jobs, agent=None, ledger="ledger.jsonl"):
    """{@id: entity} of the crate of these jobs."""
    path = write_crate(STUDY, jobs, ["results/table.csv"], Path(ledger), agent)
    return {entity["@id"]: entity for entity in json.loads(path.read_text())["@graph"]}


def references(value):
    if isinstance(value, dict):
        return {value["@id"]} if "@id" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def figures(entities, action):
    """{figure: (value, unit)} of an action's resource usage."""
    used = [entities[name] for name in sorted(references(action["resourceUsage"]))]
    return {e["propertyID"]: (e["value"], e["unitCode"].rpartition("/")[2]) for e in used}


# ---- validity ------------------------------------------------------------------------------------


def test_a_crate_is_valid(jobs, crate_findings):
    written(jobs)
    assert crate_findings("results") == []


@pytest.mark.parametrize(
    "name, key",
    [
        ("#step/train", "workExample"),
        ("./", "datePublished"),
        ("_workflow/Snakefile", "hasPart"),
        ("#control/table", "object"),
    ],
)
def test_the_validator_would_notice(jobs, crate_findings, name, key):
    entities = written(jobs)
    path = Path("results/ro-crate-metadata.json")
    document = json.loads(path.read_text())
    del entities[name][key]
    path.write_text(json.dumps(document | {"@graph": list(entities.values())}))
    assert crate_findings("results")


def test_the_reference_library_reads_it(jobs):
    from rocrate.rocrate import ROCrate

    written(jobs)
    crate = ROCrate("results")
    assert crate.mainEntity.id == "_workflow/Snakefile"
    names = {entity.id for entity in crate.data_entities}
    assert MODEL.removeprefix("results/") in names
    assert all(Path("results", unquote(name)).is_file() for name in names)


# ---- completeness --------------------------------------------------------------------------------


def test_every_file_stands_there_with_its_hash_and_size(jobs):
    files = {k: e for k, e in written(jobs).items() if "File" in e["@type"]}
    assert "_workflow/resources/prompt%20file.txt" in files
    for name, entity in files.items():
        content = Path("results", unquote(name)).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert entity["contentSize"] == str(len(content)), name


def test_every_reference_leads_to_an_entity_or_to_the_web(jobs):
    entities = written(jobs)
    named = set().union(*(references(list(e.values())) for e in entities.values()))
    assert [n for n in named - set(entities) if not n.startswith(("http://", "https://"))] == []


def test_a_job_leads_from_its_files_to_its_script_machine_and_commit(jobs):
    entities = written(jobs)
    run = entities["#run/train/recipe=3A"]
    assert references(run["instrument"]) == {"_workflow/workflow/scripts/train.py"}
    assert references(run["object"]) == {
        "_workflow/resources/prompt%20file.txt",
        "#wildcard/recipe/3A",
        "#commit/c0ffee-changed",
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


def test_a_rule_without_a_script_is_run_by_its_own_file(jobs):
    run = written(jobs)["#run/table"]
    assert references(run["instrument"]) == {"_workflow/rules/all.smk"}
    assert run["startTime"] == "2026-01-02T03:06:40+00:00"  # Snakemake's, for want of a run.json


def test_equal_names_of_different_machines_are_told_apart(jobs):
    other = Path("results/tiny/stage3/3B")
    provenance.write_manifest(other / "manifest.json", stamp("train"), [])
    provenance.write_json(other / "run.json", RUN | {"gpus": [{"name": "A100"}]})
    outputs = tuple(str(other / n) for n in ("manifest.json", "run.json"))
    recipe = {"recipe": "3B"}
    again = Job("train", "", "rules/all.smk", outputs, wildcards=recipe, stamp=jobs[0].stamp)
    entities = written([*jobs, again])
    assert len({name for name in entities if name.startswith("#machine/box/")}) == 2


def test_the_configuration_is_there_key_by_key(jobs):
    entities = written(jobs)
    for key, value, kind in [
        ("finetune.learning_rate", 1e-3, "Float"),
        ("finetune.max_steps", 5, "Integer"),
        ("finetune.fused", True, "Boolean"),
        ("study", "tiny", "Text"),
        ("seeds", "[1]", "Text"),
        ("limit", "null", "Text"),
    ]:
        assert entities[f"#value/{key}"]["value"] == value
        assert entities[f"#parameter/{key}"]["additionalType"] == kind
        assert references(entities["#study-run"]["object"]) >= {f"#value/{key}"}


keys = st.text("abc", min_size=1)
leaves = st.none() | st.booleans() | st.integers() | st.lists(st.integers())


@given(st.dictionaries(keys, st.recursive(leaves, lambda inner: st.dictionaries(keys, inner))))
def test_a_flat_configuration_has_lost_nothing(nested):
    rebuilt = {}
    for path, value in flat(nested).items():
        *above, last = path.split(".")
        inner = rebuilt
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = value
    assert rebuilt == nested


def test_who_ran_it_is_said_when_it_is_known(jobs):
    orcid = "https://orcid.org/0000-0000-0000-0000"
    entities = written(jobs, agent=f"Ada L <{orcid}>")
    assert entities[orcid]["name"] == "Ada L"
    acted = [e for e in entities.values() if e["@type"] in ("CreateAction", "OrganizeAction")]
    assert all(references(action["agent"]) == {orcid} for action in acted)
    assert not [e for e in written(jobs).values() if "agent" in e]


def test_a_model_of_the_hub_stands_there_at_its_commit(jobs):
    home, commit = "results/tiny/stage3/3A", "c" * 40
    facts = {"model": "owner/name", "model_sha": commit, "files": {}}
    provenance.write_manifest(f"{home}/manifest.json", stamp("train"), [f"{home}/model"], **facts)
    entities = written(jobs)
    address = f"https://huggingface.co/owner/name/tree/{commit}"
    assert entities[address]["version"] == commit
    assert address in references(entities["#run/train/recipe=3A"]["object"])


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
    assert done["actionStatus"] == COMPLETED and "error" not in done


def test_energy_and_dollars_are_those_of_the_records(jobs):
    entities = written(jobs)
    spent = {"seconds": (60.5, "SEC"), "energy_joules": (1200.0, "J"), "dollars": (0.5, "USD")}
    assert figures(entities, entities["#run/train/recipe=3A"]) == spent
    in_all = spent | {"dollars": (1.0, "USD")}  # machines are also paid while they start
    assert figures(entities, entities["#study-run"]) == in_all


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


@pytest.mark.parametrize("fault", ["stamp", "missing", "size"])
def test_stale_results_are_refused_by_name(jobs, fault):
    if fault == "stamp":
        jobs[0] = Job(**{**vars(jobs[0]), "stamp": json.dumps(stamp("train") | {"hash": "other"})})
    elif fault == "missing":
        Path("results/tiny/table.csv").unlink()
    else:
        Path(MODEL).write_text("other weights")
    named = {"stamp": "3A/manifest.json", "missing": "tiny/table.csv", "size": "model.safetensors"}
    with pytest.raises(StaleInput, match=named[fault]):
        written(jobs)
    assert not Path("results/ro-crate-metadata.json").exists()


def test_a_run_record_that_was_cut_off_is_named(jobs):
    record = next(path for job in jobs for path in job.outputs if path.endswith("run.json"))
    Path(record).write_text("{")
    with pytest.raises(StaleInput, match=f"{record} is no run record"):
        written(jobs)


def test_the_copied_workflow_is_no_study(jobs):
    Path("resources/micro").mkdir()
    provenance.write_manifest("resources/micro/manifest.json", stamp("base_pretrain"), [])
    written(jobs)
    assert Path("results/_workflow/resources/micro/manifest.json").is_file()
    assert _study_folder(Path("results")) == Path("results/tiny")
    with pytest.raises(NothingToAccept, match="those of: train"):
        accept("base_pretrain", "a copy has no results", ".", "results")


def test_snakemake_finds_the_reporter_and_waits_for_nothing():
    code = (
        "import sys\n"
        "from snakemake_interface_report_plugins.registry import ReportPluginRegistry\n"
        "assert ReportPluginRegistry().is_installed('rocrate')\n"
        "assert not {'ablation', 'rocrate', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
