"""Promises of the crate, of three jobs and a hook: valid, complete, refused when not current."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from snakemake_report_plugin_runcrate import hooks
from snakemake_report_plugin_runcrate.hooks import (
    Attempt,
    File,
    Job,
    JobFacts,
    Machine,
    Reference,
    RunFacts,
    StaleResult,
    Workflow,
)
from snakemake_report_plugin_runcrate.runs import Recorded
from snakemake_report_plugin_runcrate.testing import figures, references
from snakemake_report_plugin_runcrate.write import common_folder, flat, write_crate

FAILED = "http://schema.org/FailedActionStatus"
CONFIG = {"seeds": [1], "limit": None, "train": {"rate": 1e-3, "steps": 5, "fused": True}}
MODEL = "results/train/3A/model/weights.bin"


@dataclass
class StudyHook:
    """A hook that answers with what a test gives it."""

    run: RunFacts | None = None
    jobs: dict[str, JobFacts] = field(default_factory=dict)

    def run_facts(self, workflow):
        return self.run

    def job_facts(self, job):
        return self.jobs.get(job.rule)


@dataclass
class Point:
    """What `importlib.metadata.entry_points` lists."""

    name: str
    hook: StudyHook

    def load(self):
        return lambda: self.hook


@pytest.fixture
def installed(monkeypatch):
    """The hooks that are installed: {name: hook}; none at first."""
    found = {}
    monkeypatch.setattr(
        hooks, "entry_points", lambda group: [Point(*item) for item in found.items()]
    )
    return found


@pytest.fixture
def recorded(tmp_path, monkeypatch, installed):
    """A finished workflow of three rules."""
    monkeypatch.chdir(tmp_path)
    files = {
        "Snakefile": 'include: "rules/all.smk"\n',
        "rules/all.smk": "rule train: ...\n",
        "scripts/train.py": "train()\n",
        "environment.yml": "name: study\n",
        "CITATION.cff": "license: Apache-2.0\ntitle: tiny\nauthors:\n"
        "  - {given-names: Ada, family-names: L, affiliation: The Engine}\n  - {name: A group}\n",
        "data/prompt file.txt": "?\n",
        "results/tiny.csv": "a,b\n1,2\n",
        "results/table.csv": "a,b\n1,2\n",
        MODEL: "weights",
    }
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    train = Job(
        rule="train",
        description="A checkpoint.",
        snakefile="rules/all.smk",
        script="scripts/train.py",
        environment="environment.yml",
        container="docker://python:3.11",
        wildcards={"recipe": "3A"},
        params={"rate": 0.1, "layers": [1, 2], "loss": print, "made": object()},
        inputs=("data/prompt file.txt",),
        outputs=("results/train/3A/model",),
        times=(1767323100.0, 1767323101.5),
    )
    table = Job(
        rule="table",
        snakefile="rules/all.smk",
        command="count {input} > {output}",
        inputs=("results/train/3A/model",),
        outputs=("results/tiny.csv",),
        times=(1767323200.0, 1767323201.0),
    )
    named = Job(
        rule="named",
        snakefile="Snakefile",
        inputs=("results/tiny.csv",),
        outputs=("results/table.csv", "results/scratch.txt"),
        temporary=frozenset({"results/scratch.txt"}),
        times=(1767323202.0, 1767323203.0),
    )
    return Recorded(
        name="repository",
        workflow=Workflow("Snakefile", CONFIG, {}, ("results/table.csv",)),
        jobs=[train, table, named],
        workflow_files={name: name for name in files if not name.startswith(("data", "results"))},
    )


def written(recorded, folder=None, agent=None):
    """{@id: entity} of the crate."""
    path = write_crate(recorded, folder, agent)
    return {entity["@id"]: entity for entity in json.loads(path.read_text())["@graph"]}


# ---- validity ------------------------------------------------------------------------------------


def test_a_crate_is_valid(recorded, crate_findings):
    written(recorded)
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
def test_the_validator_would_notice(recorded, crate_findings, name, key):
    entities = written(recorded)
    path = Path("results/ro-crate-metadata.json")
    document = json.loads(path.read_text())
    del entities[name][key]
    path.write_text(json.dumps(document | {"@graph": list(entities.values())}))
    assert crate_findings("results")


def test_the_reference_library_reads_it(recorded):
    from rocrate.rocrate import ROCrate

    written(recorded)
    crate = ROCrate("results")
    assert crate.mainEntity.id == "_workflow/Snakefile"
    names = {entity.id for entity in crate.data_entities if entity.id[0] != "#"}  # rules
    assert MODEL.removeprefix("results/") in names
    assert all(Path("results", unquote(name)).exists() for name in names)


def test_every_reference_leads_to_an_entity_or_to_the_web(recorded):
    entities = written(recorded)
    named = set().union(*(references(list(e.values())) for e in entities.values()))
    assert [n for n in named - set(entities) if not n.startswith(("http://", "https://"))] == []


# ---- what Snakemake has recorded -----------------------------------------------------------------


def test_every_file_is_there_with_its_hash_and_size(recorded):
    files = {k: e for k, e in written(recorded).items() if "File" in e["@type"]}
    assert "_workflow/scripts/train.py" in files
    for name, entity in files.items():
        content = Path("results", unquote(name)).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert entity["contentSize"] == str(len(content)), name


def test_an_input_from_outside_the_crate_is_named_by_its_hash(recorded):
    entity = written(recorded)["#elsewhere/data/prompt%20file.txt"]
    assert entity["@type"] == "CreativeWork"
    assert entity["sha256"] == hashlib.sha256(b"?\n").hexdigest()


def test_a_job_leads_from_its_files_to_its_script_and_software(recorded):
    entities = written(recorded)
    run = entities["#run/train/recipe=3A"]
    assert references(run["instrument"]) == {"_workflow/scripts/train.py"}
    assert {"#elsewhere/data/prompt%20file.txt", "#wildcard/recipe/3A"} < references(run["object"])
    assert {"train/3A/model/", "train/3A/model/weights.bin"} == references(run["result"])
    assert (run["startTime"], run["endTime"]) == (
        "2026-01-02T03:05:00+00:00",
        "2026-01-02T03:05:01+00:00",
    )
    script = entities["_workflow/scripts/train.py"]
    assert references(script["softwareRequirements"]) == {
        "_workflow/environment.yml",
        "docker://python:3.11",
    }


def test_params_are_there_as_values_without_addresses_in_memory(recorded):
    entities = written(recorded)
    found = {n: e["value"] for n, e in entities.items() if n.startswith("#param/train/recipe=3A/")}
    assert {name.rpartition("/")[2]: value for name, value in found.items()} == {
        "rate": 0.1,
        "layers": "[1, 2]",
        "loss": "<built-in function print>",
        "made": "<object object>",
    }


def test_a_rule_without_a_script_is_its_own_tool(recorded):
    entities = written(recorded)
    (tool,) = references(entities["#run/table"]["instrument"])
    assert entities[tool]["text"] == "count {input} > {output}"
    assert references(entities[tool]["isPartOf"]) == {"_workflow/rules/all.smk"}
    assert "ComputationalWorkflow" in entities["_workflow/Snakefile"]["@type"]  # it has a rule too


def test_a_directory_is_a_folder_with_its_files(recorded):
    entities = written(recorded)
    folder = entities["train/3A/model/"]
    assert folder["@type"] == "Dataset"
    assert references(folder["hasPart"]) == {"train/3A/model/weights.bin"}
    assert references(entities["#run/table"]["object"]) == {"train/3A/model/"}


def test_a_temporary_output_may_be_gone(recorded):
    entities = written(recorded)
    gone = entities["#elsewhere/results/scratch.txt"]
    assert gone["description"] == "Not in this crate."
    assert "#elsewhere/results/scratch.txt" in references(entities["#run/named"]["result"])


def test_the_configuration_is_there_key_by_key(recorded):
    entities = written(recorded)
    for key, value, kind in [
        ("train.rate", 1e-3, "Float"),
        ("train.steps", 5, "Integer"),
        ("train.fused", True, "Boolean"),
        ("seeds", "[1]", "Text"),
        ("limit", "null", "Text"),
    ]:
        assert entities[f"#value/{key}"]["value"] == value
        assert entities[f"#parameter/{key}"]["additionalType"] == kind
        assert f"#value/{key}" in references(entities["#workflow-run"]["object"])


def test_a_flat_configuration_has_lost_nothing():
    nested = {"a": {"b": {"c": 1, "d": []}, "e": None}, "f": {}, 3: "g"}
    assert flat(nested) == {"a.b.c": 1, "a.b.d": [], "a.e": None, "f": {}, "3": "g"}


def test_who_ran_it_is_said_when_it_is_known(recorded):
    orcid = "https://orcid.org/0000-0000-0000-0000"
    entities = written(recorded, agent=f"Ada L <{orcid}>")
    assert entities[orcid]["name"] == "Ada L"
    acted = [e for e in entities.values() if e["@type"] in ("CreateAction", "OrganizeAction")]
    assert all(references(action["agent"]) == {orcid} for action in acted)
    assert not [e for e in written(recorded).values() if "agent" in e]


def test_without_a_citation_the_licence_is_the_file_of_that_name(recorded):
    Path("LICENSE").write_text("All rights reserved.\n")
    files = {**recorded.workflow_files, "LICENSE": "LICENSE"}
    assert written(replace(recorded, workflow_files=files))["./"]["license"] == {
        "@id": "https://spdx.org/licenses/Apache-2.0"
    }
    del files["CITATION.cff"]
    root = written(replace(recorded, workflow_files=files))["./"]
    assert root["license"] == {"@id": "_workflow/LICENSE"}
    del files["LICENSE"]
    root = written(replace(recorded, workflow_files=files))["./"]
    assert root["license"] == "No licence is stated."


# ---- where the crate is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outputs, folder",
    [
        (["results/a.csv", "results/b/c.csv"], "results"),
        (["results/b/a.csv", "results/b/c/d.csv"], "results/b"),
        (["results/a.csv", "work/b.csv"], "."),
        (["a.csv", "results/b.csv"], "."),
        (["results/a.csv", "/elsewhere/b.csv", "../c.csv", "s3://bucket/d.csv"], "results"),
    ],
)
def test_the_crate_is_the_deepest_folder_of_all_outputs(outputs, folder):
    assert common_folder(outputs) == folder


def test_outputs_that_are_all_elsewhere_need_a_folder():
    with pytest.raises(StaleResult, match="--report-runcrate-folder"):
        common_folder(["/elsewhere/a.csv", "s3://bucket/b.csv"])


def test_the_working_directory_as_a_crate_has_no_copies(recorded, crate_findings):
    entities = written(recorded, folder=".")
    assert entities["./"]["mainEntity"] == {"@id": "Snakefile"}
    assert "data/prompt%20file.txt" in entities
    assert not Path("_workflow").exists()
    assert crate_findings(".") == []


def test_a_folder_of_the_user_is_not_replaced(recorded):
    Path("results/_workflow").mkdir()
    with pytest.raises(StaleResult, match="_workflow exists and is no part of a crate"):
        written(recorded)


# ---- stability and refusals ----------------------------------------------------------------------


def test_equal_records_give_equal_bytes(recorded):
    written(recorded)
    first = Path("results/ro-crate-metadata.json").read_bytes()
    os.utime(MODEL, (1, 1))
    Path("results/_workflow/left over.txt").write_text("of an earlier crate")
    written(recorded)
    assert Path("results/ro-crate-metadata.json").read_bytes() == first
    assert not Path("results/_workflow/left over.txt").exists()


def test_a_crate_inside_an_output_directory_does_not_describe_itself(recorded):
    written(recorded, folder="results/train/3A/model")
    path = Path("results/train/3A/model/ro-crate-metadata.json")
    first = path.read_bytes()
    written(recorded, folder="results/train/3A/model")
    assert path.read_bytes() == first


def test_a_missing_result_is_named_with_the_command_that_makes_it(recorded):
    Path("results/tiny.csv").unlink()
    with pytest.raises(StaleResult, match=r"tiny.csv is missing.*--cores all results/tiny.csv"):
        written(recorded)
    assert not Path("results/ro-crate-metadata.json").exists()


def test_a_result_that_snakemake_would_make_again_is_refused(recorded):
    jobs = [*recorded.jobs[:2], replace(recorded.jobs[2], outdated="Params have changed")]
    with pytest.raises(StaleResult, match=r"results/table.csv is not current.*Params have changed"):
        written(replace(recorded, jobs=jobs))


# ---- what a hook adds ----------------------------------------------------------------------------


def test_the_first_hook_that_answers_counts(recorded, installed):
    installed |= {
        "b": StudyHook(RunFacts("study b")),
        "a": StudyHook(),
        "c": StudyHook(RunFacts("study c")),
    }
    assert written(recorded)["./"]["name"] == "Results of the study b"


def test_facts_of_the_run_replace_snakemakes(recorded, installed, crate_findings):
    installed["study"] = StudyHook(
        RunFacts(
            "study s", folder="results", parameters={"a": {"b": 1}}, workflow_files=["README.md"],
            commit="c0ffee", dirty=True, dollars=2.5,
        )
    )  # fmt: skip
    Path("README.md").write_text("# A study\n")
    jobs = [replace(job, snakefile="Snakefile", environment=None) for job in recorded.jobs]
    entities = written(replace(recorded, jobs=jobs))
    assert entities["#value/a.b"]["value"] == 1 and "#value/train.rate" not in entities
    assert {n for n in entities if n.startswith("_workflow")} == {
        "_workflow/README.md",
        "_workflow/Snakefile",
    }
    main = entities["_workflow/Snakefile"]
    assert main["version"] == "c0ffee, with uncommitted changes"
    assert figures(entities, entities["#workflow-run"])["dollars"] == (2.5, "USD")
    assert crate_findings("results") == []


def test_facts_of_a_job_are_in_its_actions(recorded, installed, crate_findings):
    gone = File("results/train/3A/model/optimizer.bin", "ab" * 32, 7, here=False)
    facts = JobFacts(
        files={gone.path: gone, "corpus/a.txt": File("corpus/a.txt", "cd" * 32, 9)},
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
        seconds=60.0,
        energy_joules=1200.0,
        machines=[Machine("box", "H100"), Machine("box", "A100")],
        attempts=[Attempt("run-1", "outbid", 30.0, 0.25, 1767322000.0), Attempt("run-2", None)],
        packages={"torch": "2.13.0"},
        references=[Reference("owner/model", "c0ffee", "https://hub.example/owner/model")],
        params={},
    )
    installed["study"] = StudyHook(RunFacts("study s"), {"train": facts})
    jobs = [replace(recorded.jobs[0], outdated="a reason of Snakemake"), *recorded.jobs[1:]]
    entities = written(replace(recorded, jobs=jobs))
    run = entities["#run/train/recipe=3A"]
    assert run["startTime"] == facts.started
    assert figures(entities, run) == {"seconds": (60.0, "SEC"), "energy_joules": (1200.0, "J")}
    assert len(references(run["location"])) == 2
    assert "https://hub.example/owner/model" in references(run["object"])
    assert "#elsewhere/corpus/a.txt" in references(run["object"])
    assert entities[f"#elsewhere/{gone.path}"]["sha256"] == gone.sha256
    assert not [name for name in entities if name.startswith("#param/train")]
    failed = entities["#run/run-1"]
    assert (failed["actionStatus"], failed["error"]) == (FAILED, "outbid")
    assert failed["endTime"] == "2026-01-02T02:46:40+00:00"
    assert references(entities["#control/train/recipe=3A"]["object"]) == {failed["@id"], run["@id"]}
    assert crate_findings("results") == []
