"""Promises of `--configfile` and `--study`: one meaning, and an answer that lists what is there."""

from pathlib import Path

import click
import pytest

from ablation.cli import studies
from ablation.cli.main import main
from ablation.config.merging import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Configuration files of three studies, two of which have results."""
    monkeypatch.chdir(tmp_path)
    for name, study in {"default": "micro", "bridge": "micro", "mine": "mine", "b": "two"}.items():
        file = tmp_path / "config" / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"# a study\nstudy: {study} # why\n")
    (tmp_path / "config/c.yaml").write_text("extends: b.yaml\nstudy: two\n")
    for study in ("micro", "mine"):
        (tmp_path / "results" / study / "base").mkdir(parents=True)
        (tmp_path / "results" / study / "base/manifest.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "study, file", [("mine", "config/mine.yaml"), ("micro", "config/default.yaml"), (None, None)]
)
def test_a_name_stands_for_the_file_of_the_study(here, study, file):
    assert studies.configfile_of(None, study) == (Path(file) if file else None)


def test_a_study_of_several_files_is_not_guessed(here):
    with pytest.raises(ConfigError, match="--configfile: config/b.yaml, config/c.yaml"):
        studies.configfile_of(None, "two")


def test_a_file_stands_for_the_results_of_its_study(here):
    for chosen in ((Path("config/mine.yaml"), None), (None, "mine")):
        assert studies.find_study_folder(None, *chosen) == Path("results/mine")
        assert studies.find_table(None, *chosen) == Path("results/mine/recovery.csv")
    assert studies.find_study_folder(Path("results/mine"), None, "mine") == Path("results/mine")
    assert studies.find_table(None, None, None) == Path("results/recovery.csv")


def test_a_file_and_a_name_are_of_one_study(here):
    with pytest.raises(ConfigError, match="is of the study mine, not of micro"):
        studies.configfile_of(Path("config/mine.yaml"), "micro")
    with pytest.raises(click.UsageError, match="not both"):
        studies.find_table(Path("a.csv"), None, "mine")


@pytest.mark.parametrize("command", ["table", "trace --column gain", "verify", "seal", "dose"])
def test_results_that_are_not_there_are_answered_with_those_that_are(here, capsys, command):
    assert main([*command.split(), "--study", "mime"]) > 0
    told = capsys.readouterr().err
    assert "results/mime was not found, did you mean `mine`? Studies in results/: m" in told


@pytest.mark.parametrize("command", ["plan", "reproduce stage4", "push store", "pin"])
def test_a_study_without_a_file_is_answered_with_those_that_have_one(here, capsys, command):
    (here / "resources/planning").mkdir(parents=True)
    for name in ("offers.json", "scaling.json"):
        file = f"resources/planning/{name}"
        (here / file).write_text((ROOT / file).read_text())
    assert main([*command.split(), "--study", "mime"]) > 0
    told = capsys.readouterr().err
    assert "`study: mime`, did you mean `mine`? Studies there: micro, mine, two" in told
    assert main([*command.split(), "--configfile", "none.yaml"]) > 0
    told = capsys.readouterr().err
    assert "none.yaml: No such file" in told and "b.yaml, bridge.yaml" in told


def test_a_folder_without_results_is_answered_with_the_studies(here, capsys):
    assert main(["verify", "nowhere"]) == 2
    assert "nowhere holds no results of a study. Studies in results/: m" in capsys.readouterr().err


def test_the_default_file_loads_the_same_study_by_its_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert studies.load_study_of(None, "micro") == studies.load_study_of(None, None)
