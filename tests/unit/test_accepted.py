"""Promises of `ablation accept`: older results stand by a decision that is written down."""

import json

import pytest

from ablation import accepted, provenance
from ablation.__main__ import main
from ablation.accept import NothingToAccept, accept
from ablation.accepted import oldest
from ablation.code_hash import PACKAGE, code_hash


class Workshop:
    """A repository with one script whose code changes, and a result of it."""

    def __init__(self, root):
        self.root, self.manifest = root, root / "results/micro/stage/manifest.json"
        (root / "workflow/scripts").mkdir(parents=True)
        self.code("x = 1")

    def code(self, text):
        (self.root / "workflow/scripts/finetune.py").write_text(text)
        code_hash.cache_clear()

    def stamp(self, stage="stage3_finetune", **config):
        return provenance.stamp(stage, self.root / "workflow/scripts/finetune.py", config, ())

    def make(self, folder="stage", **config):
        path = self.manifest.parents[1] / folder / "manifest.json"
        provenance.write_manifest(path, self.stamp(**config), [])

    def accept(self, why="renamed a variable", stage="stage3_finetune", results="results"):
        return accept(stage, why, self.root, results)

    def current(self):
        return provenance.read_manifest(self.manifest, self.stamp()["hash"])


@pytest.fixture
def work(tmp_path):
    work = Workshop(tmp_path)
    work.make()
    yield work
    code_hash.cache_clear()


def test_a_changed_code_makes_results_stale_until_it_is_accepted(work):
    before = work.stamp()
    work.code("y = 1")
    with pytest.raises(provenance.StaleInput):
        work.current()
    told = work.accept()
    assert work.stamp() == before  # Snakemake's params too: nothing runs again
    assert work.current()
    assert "renamed a variable" in told and "1 results stand" in told
    (entry,) = json.loads((work.root / "accepted.json").read_text())
    assert entry["why"] == "renamed a variable" and entry["stage"] == "stage3_finetune"


def test_refactorings_add_up_and_a_real_change_afterwards_counts(work):
    before = work.stamp()
    for text in ("y = 1", "z = 1"):
        work.code(text)
        work.accept()
    assert work.stamp() == before
    work.code("z = 2")
    assert work.stamp()["code"] not in (before["code"], "")
    with pytest.raises(provenance.StaleInput):
        work.current()
    work.code("y = 1")  # back to what was accepted on the way
    assert work.stamp() == before


def test_only_the_named_stage_is_accepted(work):
    work.code("y = 1")
    other = work.stamp("stage4_posteval")
    work.accept()
    assert work.stamp("stage4_posteval") == other


def test_a_configuration_is_never_accepted(work):
    work.code("y = 1")
    work.accept()
    assert work.stamp(lr=2)["hash"] != work.stamp()["hash"]


def test_nothing_to_accept_is_refused_and_writes_nothing(work):
    with pytest.raises(NothingToAccept, match="has not changed"):
        work.accept()
    with pytest.raises(NothingToAccept, match="no results of 'stage9'.*stage3_finetune"):
        work.accept(stage="stage9")
    work.code("y = 1")
    for why in ("", "  \n"):
        with pytest.raises(NothingToAccept, match="--why"):
            work.accept(why=why)
    with pytest.raises(NothingToAccept, match="no results of"):
        work.accept(results="elsewhere")
    assert not (work.root / "accepted.json").exists()


def test_results_of_several_codes_cannot_all_be_equal(work):
    work.code("x = 2")
    work.make("other")
    work.code("x = 3")
    with pytest.raises(NothingToAccept, match="several older codes(.|\n)*micro/other"):
        work.accept()
    work.accept(results="results/micro/stage")
    assert work.current()


def test_results_of_the_new_code_are_named_before_they_are_made_again(work):
    work.code("y = 1")
    work.make("other")
    assert "1 made by today's code will be made again" in work.accept()


def test_results_newer_than_what_was_accepted_are_told_apart(work):
    work.code("y = 1")
    work.accept()
    entries = (work.root / "accepted.json").read_text()
    (work.root / "accepted.json").unlink()
    work.make()  # made elsewhere, before accepted.json arrived
    (work.root / "accepted.json").write_text(entries)
    with pytest.raises(NothingToAccept, match="newer than the oldest"):
        work.accept()


def test_a_circle_in_the_file_ends():
    circle = [{"stage": "s", "old": a, "new": b} for a, b in (("1", "2"), ("2", "1"))]
    assert oldest("s", "1", circle) in ("1", "2")


@pytest.mark.parametrize("text", ['{"stage": "s"}', '[{"stage": "s"}]', "[1]", "<<<<<<< ours\n["])
def test_a_malformed_file_is_named(work, monkeypatch, capsys, text):
    """After a merge with a conflict, for one."""
    (work.root / "accepted.json").write_text(text)
    with pytest.raises(ValueError, match="accepted.json: .* a list of objects .* restore the comm"):
        accepted.read(work.root)
    monkeypatch.chdir(work.root)
    assert main(["accept", "stage3_finetune", "--why", "renamed"]) == 1
    assert "accepted.json: " in capsys.readouterr().err


def test_a_damaged_manifest_is_named(work, monkeypatch, capsys):
    work.manifest.write_text("{")
    monkeypatch.chdir(work.root)
    assert main(["accept", "stage3_finetune", "--why", "renamed"]) == 1
    assert "stage/manifest.json is no manifest" in capsys.readouterr().err


def test_the_command_says_what_it_did_or_why_not(work, monkeypatch, capsys):
    monkeypatch.chdir(work.root)
    work.code("y = 1")
    arguments = ["accept", "stage3_finetune", "--why", "renamed"]
    assert main(arguments) == 0 and "because: renamed" in capsys.readouterr().out
    assert main(arguments) == 1 and "has not changed" in capsys.readouterr().err
    work.code("z = 1")
    assert main(["accept", "stage9", *arguments[1:]]) == 1  # one refusal stops no other stage
    assert "no results of 'stage9'" in capsys.readouterr().err
    assert work.current()


def test_every_script_is_some_stages():
    from pathlib import Path

    from ablation.accepted import SCRIPTS

    root = Path(PACKAGE).parents[1]
    scripts = {file.stem for file in root.glob("workflow/scripts/*.py")}
    assert set(SCRIPTS.values()) <= scripts
    for stage, script in SCRIPTS.items():
        assert stage != script
