"""Promises of `ablation studies`: every study in results/ with its state and its leaks."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest

from ablation.cli import list_studies
from ablation.cli.main import main
from ablation.lineage.studies import EDITED, PARTLY, STALE, WHOLE, page, read_study, state_of
from ablation.provenance.tables import read_csv
from tests.support import small_results

HOME = Path(small_results.HOME)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        small_results.make(root)
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A folder with the results of one small study, as the working directory."""
    shutil.copytree(made / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(study):
    """What a configuration that made all results would expect."""
    return [dict(study.made)]


def test_a_study_is_described_by_its_records(root):
    found = read_study(HOME)
    assert (found.name, found.base) == ("small", "x")
    assert (found.recipes, found.seeds) == ({"3A", "3B"}, {1, 2})
    assert found.leaks == {"full_bidir (eval)"}
    assert found.seconds == pytest.approx(
        sum(json.loads(file.read_text())["seconds"] for file in HOME.rglob("*run.json"))
    )
    assert found.bytes == sum(file.stat().st_size for file in HOME.rglob("*") if file.is_file())


def test_a_study_is_whole_stale_partly_there_or_edited(root):
    study = read_study(HOME)
    assert state_of(study, expected(study)) == WHOLE
    assert state_of(study) == "whole, not compared"
    (first, *_), (wanted,) = study.made, expected(study)
    assert state_of(study, [wanted | {first: "0" * 64}]) == f"{STALE} (1 of {len(wanted)})"
    assert state_of(study, [wanted | {"elsewhere": "0"}]) == f"{PARTLY} (1 of {len(wanted) + 1})"
    # of two configurations of the study, that which made its results counts
    other = dict.fromkeys(wanted, "0" * 64)
    assert state_of(study, [other, wanted]) == state_of(study, [wanted, other]) == WHOLE
    shutil.rmtree(HOME / "stage4_posteval/3B/seed2")
    assert state_of(read_study(HOME), [wanted]) == PARTLY
    (HOME / "recovery.manifest.json").unlink()
    assert state_of(read_study(HOME)) == PARTLY
    manifest = HOME / "stage1_baseline/manifest.json"
    manifest.write_text(manifest.read_text().replace("causal", "full_bidir"))
    assert state_of(read_study(HOME), [wanted]) == EDITED


def test_every_form_lists_every_study(root, capsys):
    shutil.copytree(HOME, "results/older")
    for form in ("text", "markdown", "latex", "csv"):
        assert main(["studies", "--format", form]) == 0
        out = capsys.readouterr().out
        assert "small" in out and "older" in out
        if form == "csv":
            rows = read_csv(StringIO(out))
            assert rows.study.tolist() == ["older", "small"]
            recovery = read_csv(HOME / "recovery.csv")
            row = recovery[
                (recovery.recipe == rows.recipe[1])
                & (recovery.seed == "all")
                & (recovery["mask"] == "prefill_bidir")
                & (recovery.task == "macro")
            ].iloc[0]
            assert rows["mask"][1] == "prefill_bidir"  # the first that leaks nowhere
            assert rows.recovered[1] == row.recovered
            assert rows.leaks.tolist() == ["full_bidir (eval)"] * 2


def test_the_page_marks_leaks_and_escapes_names(root):
    study = read_study(HOME)
    study.recipes.add("<b>&")
    text = page([study], {"small": "stale (1 of 2)"})
    assert '<td class="bad">stale (1 of 2)</td>' in text
    assert text.count('<td class="bad">eval</td>') == 2  # 3A and 3B under full_bidir
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text
    assert "http:" not in text and "https:" not in text
    assert text == page([study], {"small": "stale (1 of 2)"})


def test_a_study_without_a_table_is_listed_too(root, capsys):
    for file in HOME.glob("recovery*"):
        file.unlink()
    assert main(["studies", "--page", "shown/page.html"]) == 0
    assert PARTLY in capsys.readouterr().out
    assert "What came back in each</h2><p>No rows.</p>" in Path("shown/page.html").read_text()


@pytest.mark.parametrize("kind", ["other columns", "words for numbers"])
def test_a_table_of_another_kind_is_an_edited_study(root, capsys, kind):
    (HOME / "recovery.manifest.json").unlink()  # which has the hash of the table
    words = read_csv(HOME / "recovery.csv").assign(after="many").to_csv()
    (HOME / "recovery.csv").write_text("a,b\n1,2\n" if kind == "other columns" else words)
    assert main(["studies"]) == 0
    assert EDITED in capsys.readouterr().out


def test_numbers_of_an_edited_table_are_not_shown(root, capsys):
    table = HOME / "recovery.csv"
    table.write_text(table.read_text().replace(",0.5,", ",0.6,"))
    study = read_study(HOME)
    assert state_of(study, expected(study)) == EDITED and study.recovery is None


def test_no_results_are_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["studies"]) == 1
    assert "results/ holds no results of a study" in capsys.readouterr().err


def test_the_state_is_that_of_the_study_s_own_configuration():
    """The fingerprints are those that Snakemake compares, by the study's file in config/."""
    (wanted,) = list_studies._expected("demo")
    assert "results/demo/stage1_baseline/manifest.json" in wanted
    assert "results/demo/recovery.manifest.json" in wanted
    assert all(len(sha256) == 64 for sha256 in wanted.values())
    assert list_studies._expected("no such study") == []
