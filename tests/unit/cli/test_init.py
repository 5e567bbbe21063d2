"""Promises of `ablation init`: a whole study folder, and nothing of the user's overwritten."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablation.cli.init import NAME, files_of
from ablation.cli.main import main
from ablation.cli.studies import load_study_of
from ablation.provenance.code_hash import ROOT
from tests.dry_run import dry_run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_the_folder_holds_a_study_that_snakemake_and_the_commands_read(monkeypatch, capsys):
    assert main(["init", "mystudy"]) == 0
    assert "cd mystudy\nsnakemake -n" in capsys.readouterr().out
    assert set(files_of("mystudy")) <= written(Path("mystudy"))
    monkeypatch.chdir("mystudy")
    assert load_study_of(None, None).study == "mystudy" == load_study_of(None, "mystudy").study
    planned = dry_run(["-n", "--quiet", "rules"], Path(), {"PYTHONPATH": str(ROOT / "src")})
    assert planned.returncode == 0, planned.stdout
    capsys.readouterr()
    assert main(["pin", "config/study.yaml"]) == 0
    assert "has a commit already" in capsys.readouterr().out
    assert main(["sample"]) == 1
    assert "results/mystudy was not found" in capsys.readouterr().err
    assert main(["plan", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert "stage3_finetune" in {job["name"].split()[0] for job in jobs}


@pytest.mark.parametrize("file", [*files_of("x"), "resources", "config/tasks"])
def test_a_folder_with_a_file_that_would_be_overwritten_is_refused(file, capsys):
    there = Path("mine", file)
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    assert main(["init", "mine"]) == 1
    told = capsys.readouterr().err
    assert file in told and "Nothing was written" in told and len(told.splitlines()) <= 3
    assert written(Path("mine")) == {file} and there.read_text() == "mine"


def test_other_files_of_the_folder_stay():
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert main(["init", "mine"]) == 0 and Path("mine/notes.txt").read_text() == "mine"
    assert main(["init", "mine"]) == 1


@pytest.mark.parametrize("words", [["My Study"], ["00"], ["no"], ["x", "--name", "../y"]])
def test_what_is_no_name_of_a_study_is_refused(words, capsys):
    assert main(["init", *words]) == 1
    told = capsys.readouterr().err
    assert "Nothing was written" in told and len(told.splitlines()) <= 3
    assert not list(Path().iterdir())


@given(st.from_regex(NAME, fullmatch=True))
def test_every_profile_names_the_study_of_the_folder(name):
    files = files_of(name)
    for path in (file for file in files if file.startswith("profiles/")):
        assert yaml.safe_load(files[path])["configfile"] == "config/study.yaml"
    values = yaml.safe_load(files["config/study.yaml"])
    assert str(values["study"]) == name
    assert (
        f"results/{name}/recovery.csv" in files["README.md"] and "STUDY" not in files["README.md"]
    )


def test_the_study_is_the_documented_example():
    ours = yaml.safe_load(files_of("example")["config/study.yaml"])
    assert ours == yaml.safe_load((ROOT / "config/example.yaml").read_text())
