"""Promises of `ablation accept`: a recorded decision keeps the results of older code valid."""

import json

import pytest

from ablation.cli.main import main
from ablation.lineage.accept import NothingToAccept, accept, unchecked_among
from ablation.lineage.compare import DIFFERENT, IDENTICAL, Comparison
from ablation.provenance.accepted import oldest_equal_code, read_accepted
from ablation.provenance.code_hash import code_hash
from ablation.provenance.files import sha256_file
from ablation.provenance.fingerprints import make_fingerprint
from ablation.provenance.manifests import StaleInput, read_manifest, write_manifest


class Workshop:
    """A repository with one script whose code changes, and a result of it."""

    def __init__(self, root):
        self.root, self.manifest = root, root / "results/micro/stage/manifest.json"
        (root / "workflow/scripts").mkdir(parents=True)
        self.write_code("x = 1")

    def write_code(self, text):
        (self.root / "workflow/scripts/finetune.py").write_text(text)
        code_hash.cache_clear()

    def fingerprint(self, stage="stage3_finetune", **config):
        return make_fingerprint(stage, self.root / "workflow/scripts/finetune.py", config, ())

    def make(self, folder="stage", **config):
        path = self.manifest.parents[1] / folder / "manifest.json"
        write_manifest(path, self.fingerprint(**config), [])

    def accept(
        self, why="renamed a variable", stage="stage3_finetune", results="results", again=None
    ):
        return accept(stage, why, self.root, results, again)

    def entries(self):
        return json.loads((self.root / "accepted.json").read_text())

    def unchecked(self):
        return unchecked_among([self.manifest], self.root)

    def current(self):
        return read_manifest(self.manifest, self.fingerprint()["hash"])


@pytest.fixture
def work(tmp_path):
    work = Workshop(tmp_path)
    work.make()
    yield work
    code_hash.cache_clear()


def test_a_changed_code_makes_results_stale_until_it_is_accepted(work):
    before = work.fingerprint()
    work.write_code("y = 1")
    with pytest.raises(StaleInput):
        work.current()
    message = work.accept()
    assert (
        work.fingerprint() == before
    )  # so the params of the rule are equal too, and nothing runs again
    assert work.current()
    assert "renamed a variable" in message and "1 results" in message
    (entry,) = json.loads((work.root / "accepted.json").read_text())
    assert entry["why"] == "renamed a variable" and entry["stage"] == "stage3_finetune"


def test_several_refactorings_are_accepted_and_a_later_change_counts(work):
    before = work.fingerprint()
    for text in ("y = 1", "z = 1"):
        work.write_code(text)
        work.accept()
    assert work.fingerprint() == before
    work.write_code("z = 2")
    assert work.fingerprint()["code"] not in (before["code"], "")
    with pytest.raises(StaleInput):
        work.current()
    work.write_code("y = 1")  # the code that was accepted first
    assert work.fingerprint() == before


# ---- checked by making the results again --------------------------------------------------------


def made_again(work, *outcomes):
    """Stands for `reproduce`, which needs Snakemake; a job of it would find its result current."""

    def again(manifests):
        assert manifests == ["results/micro/stage/manifest.json"] and work.current()
        return [Comparison("model", outcome) for outcome in outcomes]

    return again


def test_what_is_accepted_without_being_made_again_is_unchecked(work):
    assert work.unchecked() == []
    work.write_code("y = 1")
    assert "unchecked: today's code of stage3_finetune" in work.accept()
    assert work.unchecked() == ["stage3_finetune"]
    assert "checked" not in work.entries()[0]


def test_what_was_made_again_identically_is_checked(work):
    work.write_code("y = 1")
    assert "checked: 2 files" in work.accept(again=made_again(work, IDENTICAL, IDENTICAL))
    assert work.unchecked() == []
    (entry,) = work.entries()
    assert entry["checked"] == {"results/micro/stage/manifest.json": sha256_file(work.manifest)}
    assert work.current()


def test_what_is_not_identical_is_not_accepted(work):
    work.write_code("y = 1")
    with pytest.raises(NothingToAccept, match="model: different"):
        work.accept(again=made_again(work, IDENTICAL, DIFFERENT))
    assert not (work.root / "accepted.json").exists()
    with pytest.raises(StaleInput):
        work.current()


def test_an_unchecked_refactoring_can_be_checked_later(work):
    work.write_code("y = 1")
    work.accept()
    before = work.entries()
    with pytest.raises(NothingToAccept, match="different"):
        work.accept(why="", again=made_again(work, DIFFERENT))
    assert work.entries() == before and work.unchecked()
    work.accept(why="", again=made_again(work, IDENTICAL))
    assert len(work.entries()) == 1 and work.unchecked() == []


def test_code_that_makes_the_same_results_checks_the_refactorings_before_it(work):
    for text in ("y = 1", "z = 1"):
        work.write_code(text)
        work.accept()
    work.accept(why="", again=made_again(work, IDENTICAL))
    assert work.unchecked() == []
    work.make(folder="stage", lr=2)  # another result, which only the reason covers
    assert work.unchecked() == ["stage3_finetune"]


# ---- what is refused ----------------------------------------------------------------------------


def test_only_the_named_stage_is_accepted(work):
    work.write_code("y = 1")
    other = work.fingerprint("stage4_posteval")
    work.accept()
    assert work.fingerprint("stage4_posteval") == other


def test_a_configuration_is_never_accepted(work):
    work.write_code("y = 1")
    work.accept()
    assert work.fingerprint(lr=2)["hash"] != work.fingerprint()["hash"]


def test_nothing_to_accept_is_refused_and_writes_nothing(work):
    with pytest.raises(NothingToAccept, match="has not changed"):
        work.accept()
    with pytest.raises(NothingToAccept, match="no results of 'stage9'.*stage3_finetune"):
        work.accept(stage="stage9")
    work.write_code("y = 1")
    for why in ("", "  \n"):
        with pytest.raises(NothingToAccept, match="--why"):
            work.accept(why=why)
    with pytest.raises(NothingToAccept, match="no results of"):
        work.accept(results="elsewhere")
    assert not (work.root / "accepted.json").exists()


def test_results_of_several_codes_are_not_accepted_together(work):
    work.write_code("x = 2")
    work.make("other")
    work.write_code("x = 3")
    with pytest.raises(NothingToAccept, match=r"several older versions(.|\n)*micro/other"):
        work.accept()
    work.accept(results="results/micro/stage")
    assert work.current()


def test_results_of_the_new_code_are_counted_since_they_become_stale(work):
    work.write_code("y = 1")
    work.make("other")
    assert "today's code will be made again" in work.accept()


def test_results_newer_than_the_accepted_code_are_refused(work):
    work.write_code("y = 1")
    work.accept()
    entries = (work.root / "accepted.json").read_text()
    (work.root / "accepted.json").unlink()
    work.make()  # made elsewhere, before accepted.json arrived
    (work.root / "accepted.json").write_text(entries)
    with pytest.raises(NothingToAccept, match="newer than the oldest"):
        work.accept()


def test_a_circle_of_entries_ends():
    circle = [{"stage": "s", "old": a, "new": b} for a, b in (("1", "2"), ("2", "1"))]
    assert oldest_equal_code("s", "1", circle) in ("1", "2")


@pytest.mark.parametrize(
    "text",
    [
        '{"stage": "s"}',
        '[{"stage": "s"}]',
        '[{"stage": "s", "old": "1", "new": "2", "why": "", "checked": "yes"}]',
        "[1]",
        "<<<<<<< ours\n[",
    ],
)
def test_a_malformed_file_is_named(work, monkeypatch, capsys, text):
    """For example after a merge with a conflict."""
    (work.root / "accepted.json").write_text(text)
    with pytest.raises(ValueError, match="accepted.json: .* a list of objects .* restore the comm"):
        read_accepted(work.root)
    monkeypatch.chdir(work.root)
    assert main(["accept", "stage3_finetune", "--why", "renamed"]) == 1
    assert "accepted.json: " in capsys.readouterr().err


def test_a_damaged_manifest_is_named(work, monkeypatch, capsys):
    work.manifest.write_text("{")
    monkeypatch.chdir(work.root)
    assert main(["accept", "stage3_finetune", "--why", "renamed"]) == 1
    assert "stage/manifest.json is no manifest" in capsys.readouterr().err


def test_the_command_prints_what_it_recorded_or_why_it_refused(work, monkeypatch, capsys):
    monkeypatch.chdir(work.root)
    work.write_code("y = 1")
    arguments = ["accept", "stage3_finetune", "--why", "renamed"]
    assert main(arguments) == 0 and "because: renamed" in capsys.readouterr().out
    assert main(arguments) == 1 and "has not changed" in capsys.readouterr().err
    work.write_code("z = 1")
    assert main(["accept", "stage9", *arguments[1:]]) == 1  # one refusal stops no other stage
    assert "no results of 'stage9'" in capsys.readouterr().err
    assert work.current()
