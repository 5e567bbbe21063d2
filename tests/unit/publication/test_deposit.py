"""Promises of `ablation deposit`: complete, equal bytes, leaks marked, nobody's name made up."""

import hashlib
import json
import shutil
import subprocess
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ablation.cli.main import main
from ablation.publication import zenodo
from ablation.publication.checkpoint import NotPublishable
from ablation.publication.deposit import SUMS, make_deposit, read_author
from ablation.publication.sample_table import (
    COLUMNS,
    GENERATION_COLUMNS,
    GENERATIONS,
    SAMPLES,
)
from tests.support.small_results import HOME, STUDY, make
from tests.support.zenodo_server import zenodo_server

TOKEN = "zenodo_secret_of_the_test"
JANE = "Doe, Jane <https://orcid.org/0000-0002-1825-0097>"
FOLDER = Path("deposits", STUDY)


def deposit(*words, author=JANE, licence="CC-BY-4.0"):
    named = [
        *(["--author", author] if author else []),
        *(["--license", licence] if licence else []),
    ]
    return main(["deposit", *named, *words])


@pytest.fixture(scope="module")
def deposited(template):
    """A deposit of the study, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(template)
        assert deposit() == 0
    return template / FOLDER


@pytest.fixture
def made(deposited, study):
    """The deposit in the working directory, beside the study."""
    shutil.copytree(deposited, FOLDER)
    return FOLDER


def read(name):
    return json.loads((FOLDER / name).read_text())


def test_every_file_has_its_hash_and_a_second_deposit_has_the_same_bytes(made):
    subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=made, check=True)
    lines = (made / SUMS).read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {p.name for p in made.iterdir()} - {SUMS}
    before = (made / SUMS).read_bytes()
    assert deposit() == 0 and (made / SUMS).read_bytes() == before


def test_the_archive_brings_the_study_back(made, tmp_path, monkeypatch):
    (tmp_path / "clone").mkdir()
    archive = (made / f"{STUDY}.zip").resolve()
    table = Path(HOME, "recovery.csv").read_bytes()
    monkeypatch.chdir(tmp_path / "clone")
    assert main(["pull", str(archive)]) == 0
    assert Path(HOME, "recovery.csv").read_bytes() == table
    assert main(["verify", HOME, "--recompute"]) == 0


def test_the_sample_rows_are_those_of_all_conditions_with_their_leaks(made):
    rows = pq.read_table(made / SAMPLES).to_pandas()
    assert list(rows) == list(COLUMNS)
    files = sorted(Path(HOME).rglob(SAMPLES))
    assert len(rows) == sum(len(pd.read_parquet(file)) for file in files)
    own = rows[(rows.recipe == "3B") & (rows.seed == 2) & (rows.condition == "prefill_bidir")]
    stored = pd.read_parquet(Path(HOME, "stage4_posteval/3B/seed2/prefill_bidir", SAMPLES))
    assert own.loglikelihood.tolist() == stored.loglikelihood.tolist()
    assert set(rows.condition[rows.eval_leaks]) == {"full_bidir"}
    assert set(rows.recipe[rows.train_leaks]) == {"3B-leaky"}
    assert rows.seed[rows.stage == "stage1_baseline"].isna().all()


def test_judgements_of_generated_texts_are_there_and_their_texts_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, generation=True)
    assert deposit() == 0
    rows = pq.read_table(FOLDER / GENERATIONS).to_pandas()
    assert list(rows) == list(GENERATION_COLUMNS)
    stored = [pd.read_parquet(file) for file in sorted(Path(HOME).rglob(GENERATIONS))]
    assert rows.exact_match.tolist() == [right for found in stored for right in found.exact_match]
    assert set(rows.condition) == {"causal", "prefill_bidir"} and not rows.eval_leaks.any()
    assert {"stage1_generation", "stage4_generation"} <= set(rows.stage)
    records = {record["name"]: record for record in read("croissant.json")["recordSet"]}
    described = [field["name"] for field in records["generations"]["field"]]
    assert described == list(GENERATION_COLUMNS) and "samples" in records
    readme = (FOLDER / "README.md").read_text()
    assert f"`{GENERATIONS}`" in readme and "`<task>:<filter>`" in readme
    for file in FOLDER.iterdir():
        assert b"I say" not in file.read_bytes()
    with zipfile.ZipFile(FOLDER / f"{STUDY}.zip") as archive:
        assert not any(b"I say" in archive.read(name) for name in archive.namelist())


def test_croissant_describes_every_column_of_the_file_that_it_names(made):
    found = read("croissant.json")
    (record,) = found["recordSet"]
    schema = pq.read_schema(made / SAMPLES)
    kinds = {"string": "Text", "int64": "Integer", "double": "Float", "bool": "Boolean"}
    assert {
        f["source"]["extract"]["column"]: f["dataType"].removeprefix("sc:") for f in record["field"]
    } == {f.name: kinds[str(f.type)] for f in schema}
    for file in found["distribution"]:
        content = (made / file["contentUrl"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert SAMPLES in {f["@id"] for f in found["distribution"]}


def test_all_metadata_say_the_same_of_authors_licence_and_day(made):
    cited, cite = yaml.safe_load((made / "CITATION.cff").read_text()), read("datacite.json")
    (person,), (creator,) = cited["authors"], cite["creators"]
    assert (person["family-names"], person["given-names"]) == ("Doe", "Jane")
    assert (creator["familyName"], creator["givenName"]) == ("Doe", "Jane")
    assert person["orcid"] == creator["nameIdentifiers"][0]["nameIdentifier"]
    crate = {entity["@id"]: entity for entity in read("ro-crate-metadata.json")["@graph"]}
    assert crate["./"]["author"] == [{"@id": person["orcid"]}]
    days = {str(cited["date-released"]), cite["dates"][0]["date"], crate["./"]["datePublished"]}
    days.add(read("croissant.json")["datePublished"])
    assert len(days) == 1 and cite["publicationYear"] == days.pop()[:4]
    assert cite["rightsList"][0]["rightsIdentifier"] == cited["license"] == "CC-BY-4.0"
    assert "CC-BY-4.0" in crate["./"]["license"]["@id"]
    assert "owner/base" in cite["relatedIdentifiers"][0]["relatedIdentifier"]


def test_the_crate_is_a_crate(made, crate_findings):
    found = crate_findings(made)  # it is no crate of a workflow, whose checks run too
    assert [finding for finding in found if finding[0].startswith("ro-crate-1.1")] == []


def test_rows_that_leak_are_marked_in_the_readme(made):
    lines = (made / "README.md").read_text().splitlines()
    leaking = [line for line in lines if line.startswith("| 3B-leaky") or "| full_bidir" in line]
    assert leaking and all("**" in line for line in leaking)


def test_nobody_and_no_licence_is_made_up(study, capsys):
    assert deposit(author=None) == 2 and "authors" in capsys.readouterr().err
    assert deposit(licence=None) == 2 and "licence" in capsys.readouterr().err
    assert not FOLDER.exists()
    Path("CITATION.cff").write_text(
        "license: MIT\nauthors:\n- family-names: Roe\n  given-names: Ann\n- name: A group\n"
    )
    Path("LICENSE").write_text("the text")
    assert deposit(author=None, licence=None) == 0
    assert [c["name"] for c in read("datacite.json")["creators"]] == ["Roe, Ann", "A group"]
    assert (FOLDER / "LICENSE.txt").read_text() == "the text"


def test_an_edited_study_is_refused_and_a_folder_of_something_else_is_left_alone(study, capsys):
    FOLDER.mkdir(parents=True)
    (FOLDER / "mine").write_text("mine")
    assert deposit() == 2 and (FOLDER / "mine").is_file()
    table = Path(HOME, "recovery.csv")
    table.write_text(table.read_text().replace("0.9", "0.8"))
    assert deposit("--to", "elsewhere") == 2 and not Path("elsewhere").exists()
    assert "recovery.csv" in capsys.readouterr().err


# ---- the run crate of the study -------------------------------------------------------------


def write_crate(*more, without=()):
    """A crate beside the study that describes all its files, with further entities."""
    files = [p for p in [*Path(HOME).rglob("*"), Path("results/recovery.csv")] if p.is_file()]
    entities = [
        {
            "@id": quote(file.relative_to("results").as_posix()),
            "@type": "File",
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files
        if file.name not in without
    ]
    crate = {"@graph": [{"@id": "./", "@type": "Dataset"}, *entities, *more]}
    Path("results/ro-crate-metadata.json").write_text(json.dumps(crate))


def test_a_crate_that_describes_the_study_is_deposited(study, capsys):
    elsewhere = {"@id": "/etc/hostname", "@type": "File", "sha256": "0" * 64}
    above = {"@id": "small/../../CITATION.cff", "@type": ["File"], "sha256": "0" * 64}
    gone = {"@id": f"{STUDY}/gone.safetensors", "@type": "File", "sha256": "0" * 64}
    Path("CITATION.cff").write_text("title: x\n")
    write_crate(elsewhere, above, gone)
    Path("results/other").mkdir()  # a study that ran since, whose table this is now
    table = Path("results/recovery.csv")
    table.write_text(table.read_text().replace(STUDY, "other"))
    assert deposit() == 0 and "run crate" not in capsys.readouterr().out
    crate = Path("results/ro-crate-metadata.json").read_bytes()
    assert (FOLDER / "run-crate-metadata.json").read_bytes() == crate


@pytest.mark.parametrize(
    "edited",
    [
        f"{HOME}/stage3_finetune/3B/seed1/run.json",  # no manifest lists it
        "results/_workflow/Snakefile",
        "results/ro-crate-metadata.json",
    ],
)
def test_a_crate_that_describes_other_files_is_refused_by_name(study, capsys, edited):
    source = Path("results/_workflow/Snakefile")
    source.parent.mkdir()
    source.write_text("rule all\n")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    write_crate({"@id": "_workflow/Snakefile", "@type": ["File"], "sha256": sha256})
    assert deposit() == 0
    file = Path(edited)
    text = file.read_text()
    file.write_text(text[:-9] if edited.endswith("metadata.json") else f"{text} ")
    capsys.readouterr()
    assert deposit("--to", "elsewhere") == 2 and not Path("elsewhere").exists()
    said = capsys.readouterr().err
    assert edited in said and "snakemake --reporter runcrate" in said
    assert len(said.splitlines()) <= 3


def test_a_crate_of_another_study_is_left_out_and_said_to_be(study, capsys):
    write_crate(without=["recovery.manifest.json"])
    assert deposit() == 0 and not (FOLDER / "run-crate-metadata.json").exists()
    assert "without a run crate" in capsys.readouterr().out


@pytest.mark.parametrize("listed", [True, False])
def test_files_beside_hashes_that_no_deposit_wrote_are_left_alone(made, capsys, listed):
    """Downloads often have a SHA256SUMS; replacing their folder would remove them."""
    if listed:
        (made / "notes.txt").write_text("mine")
    else:
        for file in made.iterdir():
            file.unlink()
        (made / SUMS).write_text("0" * 64 + "  notes.txt\n")
        (made / "notes.txt").write_text("mine")
    assert deposit() == 2 and (made / "notes.txt").read_text() == "mine"
    said = capsys.readouterr().err
    assert SUMS in said and len(said.splitlines()) <= 3


def test_rows_without_the_result_of_an_audit_are_taken_for_leaking():
    from ablation.publication.sample_table import _with_facts as with_facts

    manifest = {"fingerprint": {"stage": "stage4_posteval"}, "mask": "causal", "recipe": "3B"}
    (row,) = with_facts(pa.table({"doc_id": [0]}), manifest, COLUMNS).to_pylist()
    assert row["train_leaks"] and row["eval_leaks"]
    base = {"fingerprint": {"stage": "base"}, "mask": "causal", "eval_leaks": False}
    (row,) = with_facts(pa.table({"doc_id": [0]}), base, COLUMNS).to_pylist()
    assert row["train_leaks"] is row["eval_leaks"] is False


@pytest.mark.parametrize("text", ["", "<https://orcid.org/0000-0002-1825-0097>", "A <me@b.c>"])
def test_an_author_that_cannot_be_read_is_refused(text):
    with pytest.raises(NotPublishable, match="Family, Given"):
        read_author(text)


# ---- Zenodo ---------------------------------------------------------------------------------


@pytest.fixture
def server(study, monkeypatch):
    with zenodo_server(TOKEN) as found:
        monkeypatch.setitem(zenodo.HOSTS, "sandbox", found.address)
        monkeypatch.setitem(zenodo.HOSTS, "zenodo", "http://127.0.0.1:9")  # never in a test
        monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
        yield found


def test_an_upload_is_a_draft_with_all_files_that_is_never_published(server, capsys):
    assert deposit("--upload", "sandbox") == 0
    (draft,) = server.drafts.values()
    assert draft["files"] == {p.name: p.read_bytes() for p in FOLDER.iterdir()}
    assert draft["metadata"]["creators"] == [{"name": "Doe, Jane", "orcid": "0000-0002-1825-0097"}]
    assert draft["metadata"]["license"] == "cc-by-4.0" and not draft["submitted"]
    assert f"{server.address}/deposit/100" in capsys.readouterr().out


def test_a_text_of_the_study_is_no_html_on_its_page(study):
    text = 'a <script src="x">alert(1)</script> & <b>bold</b> &amp;'
    described = replace(make_deposit(Path(HOME), FOLDER, [JANE], "MIT", study), description=text)
    seen = []
    parser = HTMLParser()
    parser.handle_data = seen.append
    parser.handle_starttag = lambda tag, _: pytest.fail(f"a tag {tag}")
    parser.feed(zenodo.zenodo_metadata(described)["description"])
    parser.close()
    assert "".join(seen) == text


def test_an_upload_goes_on_in_its_draft_and_sends_nothing_twice(server, capsys):
    server.full_after = 3
    assert deposit("--upload", "sandbox") == 2
    told = capsys.readouterr()
    assert "403" in told.err and TOKEN not in told.err + told.out
    server.full_after = None
    assert deposit("--upload", "sandbox") == 0
    assert len(server.drafts) == 1 and len(server.puts) == len(set(server.puts))
    assert deposit("--upload", "sandbox") == 0
    assert len(server.puts) == len(list(FOLDER.iterdir()))


def test_a_published_deposit_gets_a_new_draft(server):
    assert deposit("--upload", "sandbox") == 0
    server.drafts[100]["submitted"] = True
    assert deposit("--upload", "sandbox") == 0 and set(server.drafts) == {100, 101}


def test_a_failing_service_gets_no_second_draft(server):
    assert deposit("--upload", "sandbox") == 0
    server.down = True
    assert deposit("--upload", "sandbox") == 2
    server.down = False
    assert deposit("--upload", "sandbox") == 0 and set(server.drafts) == {100}
    del server.drafts[100]
    assert deposit("--upload", "sandbox") == 0 and len(server.drafts) == 1


def test_without_a_token_nothing_is_sent_and_the_folder_is_complete(server, monkeypatch, capsys):
    monkeypatch.delenv("ZENODO_TOKEN")
    assert deposit("--upload", "sandbox") == 2
    assert "ZENODO_TOKEN" in capsys.readouterr().err and not server.drafts
    assert (FOLDER / SUMS).is_file()


def test_the_token_is_sent_to_no_other_machine(server, capsys):
    server.buckets = "http://127.0.0.2:9"
    assert deposit("--upload", "sandbox") == 2
    told = capsys.readouterr().err
    assert "which is elsewhere" in told and TOKEN not in told
