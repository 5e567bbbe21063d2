"""Promises of verify and seal: edits are named, and by a signature those that were sealed again."""

import contextlib
import json
import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Namedlist

from ablation.analysis.published import PublishedSettings, side_by_side
from ablation.analysis.published_training import training_settings
from ablation.cli.main import main
from ablation.config.load import load_study
from ablation.lineage.trace import trace
from ablation.provenance.files import sha256_file, write_json
from ablation.provenance.manifests import StaleInput, load_manifest, write_manifest
from ablation.provenance.tables import read_csv, write_table
from ablation.remote.push import pull, push
from tests.support.small_results import CONFIG, HOME, RECIPES, STUDY, make, manifest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "workflow/scripts"
SCORED = f"{HOME}/stage4_posteval/3B/seed1/prefill_bidir"
EDITED = {
    "metrics": f"{SCORED}/metrics.json",
    "sample rows": f"{SCORED}/samples.parquet",
    "a checkpoint": f"{HOME}/stage3_finetune/3B/seed1/model/model.safetensors",
    "a table": f"{HOME}/recovery.csv",
    "the copy of a table": "results/recovery.csv",
    "a manifest": f"{HOME}/stage3_finetune/3A/seed2/manifest.json",
}
RUN = f"{HOME}/stage3_finetune/3B/seed1/run.json"
ROW = {"recipe": "3B", "seed": "1", "mask": "prefill_bidir", "task": "macro"}

signing = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="signing needs ssh-keygen")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two studies of the same name, `true` and `forged`; no test changes them."""
    folder = tmp_path_factory.mktemp("made")
    for name, learned in (("true", 0.8), ("forged", 1.0)):
        (folder / name).mkdir()
        with contextlib.chdir(folder / name):
            _make(learned=learned)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A finished study below the working directory."""
    shutil.copytree(made / "true", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def _make(**options):
    make(Path("."), **options)
    folder = Path(SCORED).relative_to(HOME).as_posix()
    write_json(f"{SCORED}/metrics.json", {"tasks": {"macro": {"acc": 0.5}}})
    upstream = [f"{folder}/manifest.json"]
    files = [f"{folder}/metrics.json"]
    manifest(f"{folder}/metrics.manifest.json", "stage4_metrics", {}, files, upstream)


@pytest.fixture
def key(tmp_path):
    return new_key(tmp_path / "key", "alice@example.org")


def new_key(file, name):
    """A private key; beside it, NAME.signers allows it alone."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    public = file.with_suffix(".pub").read_text()
    file.with_suffix(".signers").write_text(f"{name} {public}")
    return file


@pytest.fixture
def sealed(here, key):
    """A study with a signed seal; returns the file of allowed signers."""
    assert main(["seal", HOME, "--key", str(key)]) == 0
    return str(key.with_suffix(".signers"))


def flip(file):
    """Change one bit in the middle of a file."""
    content = bytearray(Path(file).read_bytes())
    content[len(content) // 2] ^= 1
    Path(file).write_bytes(content)


# ---- what was edited alone ----------------------------------------------------------------------


def test_a_study_as_it_was_made_is_verified_and_is_unsigned(here, capsys):
    assert main(["verify"]) == 0
    told = capsys.readouterr().out
    assert "as they were made" in told and "unsigned: no seal.json" in told


@pytest.mark.parametrize("file", EDITED.values(), ids=EDITED)
def test_verify_names_what_was_edited(here, capsys, file):
    flip(file)
    assert main(["verify", HOME]) == 1
    assert file in capsys.readouterr().out


def test_verify_names_every_edited_file(here, capsys):
    for file in EDITED.values():
        flip(file)
    assert main(["verify"]) == 1
    told = capsys.readouterr().out
    assert all(file in told for file in EDITED.values())


def test_verify_tells_that_weights_are_gone_and_names_other_files_that_are(here, capsys):
    Path(EDITED["a checkpoint"]).unlink()
    assert main(["verify"]) == 0
    assert "1 files of weights are not here" in capsys.readouterr().out
    shutil.rmtree(Path(EDITED["a checkpoint"]).parent)  # the folder of a checkpoint goes with them
    assert main(["verify"]) == 0
    told = "1 files of weights and 1 files beside them are not here: as"
    assert told in capsys.readouterr().out
    Path(EDITED["sample rows"]).unlink()
    assert main(["verify"]) == 1
    assert f"{EDITED['sample rows']} is missing" in capsys.readouterr().out


def test_verify_names_a_result_whose_input_was_made_again(here, capsys):
    manifest = Path(f"{HOME}/base/manifest.json")
    write_manifest(manifest, load_manifest(manifest)["fingerprint"], [f"{HOME}/base/weights.json"])
    assert main(["verify"]) == 0  # the same bytes
    write_manifest(manifest, load_manifest(manifest)["fingerprint"], [])
    assert main(["verify"]) == 1
    assert f"{HOME}/base/manifest.json is not the one that" in capsys.readouterr().out


def test_without_results_there_is_nothing_to_verify_or_seal(here, capsys):
    Path("empty").mkdir()
    for command in ("verify", "seal"):
        assert main([command, "empty"]) == 2
        assert "empty holds no results" in capsys.readouterr().err


def test_trace_names_edited_metrics_beside_the_sample_rows(here):
    flip(EDITED["metrics"])
    with pytest.raises(StaleInput, match="metrics.json has changed"):
        trace("results/recovery.csv", ROW, "recovered")


def run_script(name, tmp_path, **attributes):
    """Run a script of the workflow as Snakemake does."""
    job = dict.fromkeys(("input", "output", "params", "wildcards", "resources"), {}) | attributes
    job = {name: Namedlist(fromdict=entries) for name, entries in job.items()}
    job |= {"log": [str(tmp_path / "log")], "rule": name, "config": {}}
    script = SCRIPTS / f"{name}.py"
    runpy.run_path(str(script), {"snakemake": SimpleNamespace(**job)}, run_name="__main__")


def run_recovery(tmp_path):
    """Make the tables of the small study again, with the fingerprint that they have."""
    fingerprint = load_manifest(f"{HOME}/recovery.manifest.json")["fingerprint"]
    names = ("recovery", "per_task", "contrasts")
    output = {name: str(tmp_path / f"{name}.csv") for name in names}
    output["manifest"] = str(tmp_path / "recovery.manifest.json")
    run_script("recovery", tmp_path, output=output, params={"fingerprint": json.dumps(fingerprint)})


def test_the_table_rule_makes_the_same_table_of_unchanged_inputs(here, tmp_path):
    run_recovery(tmp_path)
    assert read_csv(tmp_path / "recovery.csv").equals(read_csv(f"{HOME}/recovery.csv"))


@pytest.mark.parametrize("what", ["sample rows", "a checkpoint", "a manifest"])
def test_the_table_rule_refuses_what_is_not_as_it_was_made(here, tmp_path, what):
    flip(EDITED[what])
    with pytest.raises(StaleInput, match=Path(EDITED[what]).name):
        run_recovery(tmp_path)
    assert not (tmp_path / "recovery.csv").exists()


@pytest.mark.parametrize("gone", ["weights", "checkpoint"])
def test_the_table_rule_makes_tables_without_removed_weights(here, tmp_path, gone):
    weights = Path(EDITED["a checkpoint"])
    weights.unlink() if gone == "weights" else shutil.rmtree(weights.parent)
    run_recovery(tmp_path)
    assert (tmp_path / "recovery.csv").exists()


def test_the_table_rule_refuses_a_checkpoint_that_lacks_another_file_than_weights(here, tmp_path):
    weights = Path(EDITED["a checkpoint"])
    (weights.parent / "config.json").unlink()
    with pytest.raises(StaleInput, match="model/config.json is missing"):
        run_recovery(tmp_path)


@pytest.mark.parametrize("what", ["metrics", "a table"])
def test_no_edited_metrics_or_table_become_the_table_of_the_study(here, tmp_path, what):
    metrics = [f"{SCORED}/metrics.json", f"{SCORED}/metrics.manifest.json"]
    inputs = dict(zip("ab", metrics, strict=True))
    inputs |= {"recovery": f"{HOME}/recovery.csv", "manifest": f"{HOME}/recovery.manifest.json"}
    job = {"input": inputs, "output": {"table": str(tmp_path / "named.csv")}}
    run_script("recovery_named", tmp_path, **job)
    assert sha256_file(tmp_path / "named.csv") == sha256_file(f"{HOME}/recovery.csv")
    (tmp_path / "named.csv").unlink()
    flip(EDITED[what])
    with pytest.raises(StaleInput, match=Path(EDITED[what]).name):
        run_script("recovery_named", tmp_path, **job)
    assert not (tmp_path / "named.csv").exists()


# ---- what was edited and sealed again -----------------------------------------------------------


@pytest.fixture
def forge(made):
    """Replaces all sample rows by better ones, and manifests and tables by those that fit them."""
    return lambda: shutil.copytree(made / "forged/results", "results", dirs_exist_ok=True)


@signing
def test_forged_and_resealed_rows_pass_trace_but_no_signature(sealed, forge, capsys):
    forge()
    assert float(trace("results/recovery.csv", ROW, "recovered")["cell"]["value"]) > 0.95
    capsys.readouterr()
    assert main(["verify", "--signers", sealed]) == 1
    told = capsys.readouterr().out
    assert f"{SCORED}/manifest.json has changed since" in told
    assert "signed by alice@example.org" in told


@signing
def test_rows_sealed_again_without_the_key_are_no_study_of_the_signer(sealed, forge, capsys):
    forge()
    signature = Path(f"{HOME}/seal.json.sig").read_bytes()
    assert main(["seal", HOME]) == 0
    assert not Path(f"{HOME}/seal.json.sig").exists()  # it would be that of another seal
    assert main(["verify", "--signers", sealed]) == 1
    assert "seal.json.sig is missing" in capsys.readouterr().out
    Path(f"{HOME}/seal.json.sig").write_bytes(signature)
    assert main(["verify", "--signers", sealed]) == 1
    assert "seal.json is not what was signed" in capsys.readouterr().out


@signing
def test_a_signed_study_is_verified(sealed, capsys):
    assert main(["verify", "--signers", sealed]) == 0
    assert "signed by alice@example.org" in capsys.readouterr().out
    assert main(["verify"]) == 0
    assert "the signature was not verified" in capsys.readouterr().out


@signing
def test_one_of_several_allowed_signers_is_enough(sealed, here, capsys):
    other = new_key(here / "other", "bob@example.org").with_suffix(".signers")
    other.write_text(
        other.read_text() + Path(sealed).read_text().replace("alice@", "carol@,alice@")
    )
    assert main(["verify", "--signers", str(other)]) == 0
    assert "signed by carol@" in capsys.readouterr().out


@signing
def test_a_forged_run_record_is_named_by_the_seal(sealed, capsys):
    record = json.loads(Path(RUN).read_text())
    write_json(RUN, record | {"host": "a faster machine"})
    assert main(["verify", "--signers", sealed]) == 1
    assert f"{RUN} has changed since" in capsys.readouterr().out


@signing
def test_a_signature_by_a_key_that_is_not_allowed_is_named(sealed, here, capsys):
    other = new_key(here / "other", "alice@example.org")
    signers = str(other.with_suffix(".signers"))
    assert main(["verify", "--signers", signers]) == 1
    assert "is not by a key that" in capsys.readouterr().out
    assert main(["seal", "--key", str(other)]) == 0
    assert main(["verify", "--signers", signers]) == 0
    assert main(["verify", "--signers", sealed]) == 1


@signing
def test_a_signature_for_another_purpose_is_named(sealed, key, capsys):
    seal = Path(f"{HOME}/seal.json")
    Path(f"{seal}.sig").unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", key, seal], check=True)
    assert main(["verify", "--signers", sealed]) == 1
    assert "is not what was signed" in capsys.readouterr().out


@signing
@pytest.mark.parametrize("edit", ["a hash", "a file", "the study"])
def test_a_seal_that_was_edited_after_signing_is_named(sealed, capsys, edit):
    seal = json.loads(Path(f"{HOME}/seal.json").read_text())
    if edit == "a hash":
        write_json(RUN, {"host": "a faster machine"})
        seal["files"][Path(RUN).relative_to(HOME).as_posix()] = sha256_file(RUN)
    elif edit == "a file":
        seal["files"].popitem()
    else:
        seal["study"] = "another"
    write_json(f"{HOME}/seal.json", seal)
    assert main(["verify", "--signers", sealed]) == 1
    assert "seal.json is not what was signed" in capsys.readouterr().out


@signing
@pytest.mark.parametrize("name", ["seal.json", "seal.json.sig"])
def test_a_removed_seal_or_signature_is_named_where_one_is_required(sealed, capsys, name):
    Path(f"{HOME}/{name}").unlink()
    assert main(["verify"]) == 0
    assert "unsigned" in capsys.readouterr().out
    assert main(["verify", "--signers", sealed]) == 1
    assert f"{name} is missing" in capsys.readouterr().out


@signing
def test_a_result_that_was_added_or_removed_since_the_seal_is_named(sealed, capsys):
    Path(RUN).rename(f"{HOME}/added.run.json")
    assert main(["verify"]) == 1
    told = capsys.readouterr().out
    assert f"{RUN} is missing, but was there" in told
    assert f"{HOME}/added.run.json was written after" in told


def test_what_is_no_seal_is_named(here, capsys):
    for text in ("", "[]", '{"files": [[1, "x"]], "study": "small"}', "\x1b[2J", "[" * 100_000):
        Path(f"{HOME}/seal.json").write_text(text)
        assert main(["verify"]) == 1
        told = capsys.readouterr().out
        assert "seal.json is no seal" in told and "\x1b" not in told


def test_equal_results_have_equal_seals_and_an_edited_study_none(here, capsys):
    assert main(["seal"]) == 0
    first = Path(f"{HOME}/seal.json").read_bytes()
    assert main(["seal", HOME]) == 0
    assert Path(f"{HOME}/seal.json").read_bytes() == first
    assert main(["verify"]) == 0
    assert "unsigned: seal.json has no signature" in capsys.readouterr().out
    flip(EDITED["sample rows"])
    assert main(["seal"]) == 1
    assert EDITED["sample rows"] in capsys.readouterr().err
    assert Path(f"{HOME}/seal.json").read_bytes() == first


@signing
def test_without_its_key_nothing_is_sealed(here, capsys):
    assert main(["seal", "--key=-no-key"]) == 2
    assert "-no-key" in capsys.readouterr().err
    assert not list(Path(HOME).glob("seal.json*"))


def test_without_ssh_keygen_the_message_says_so(here, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["seal", "--key", "key"]) == 2
    assert "ssh-keygen was not found" in capsys.readouterr().err


@signing
def test_seal_and_signature_travel_with_the_study(sealed, here, monkeypatch, capsys):
    push("../store", STUDY, weights=False)
    (here / "there").mkdir()
    monkeypatch.chdir(here / "there")
    pull("../store", STUDY)
    assert main(["verify", "--signers", sealed]) == 0
    assert "signed by alice@example.org" in capsys.readouterr().out


# ---- published.csv ------------------------------------------------------------------------------


@pytest.fixture
def published(here):
    """The table of published numbers beside those of the study."""
    Path("resources/published").mkdir(parents=True)
    printed = Path("resources/published/prefill.json")
    shutil.copy(ROOT / printed, printed)
    with contextlib.chdir(ROOT):
        study = load_study({}, ROOT / "config")
    trainings = {recipe: training_settings(study, recipe) for recipe in RECIPES}
    config = {"named": {"model": "m", "metric": "acc"}, "criteria": CONFIG["criteria"]}
    config |= {"trainings": trainings}
    recovery = read_csv(f"{HOME}/recovery.csv", dtype=str, keep_default_na=False)
    table = side_by_side(
        json.loads(printed.read_text()), recovery, PublishedSettings.model_validate(config)
    )
    file = f"{HOME}/published.csv"

    def write(frame):
        write_table(file, frame)
        upstream = ["recovery.manifest.json"]
        manifest("published.manifest.json", "published", config, ["published.csv"], upstream)

    write(table)
    return SimpleNamespace(file=file, table=table, write=write)


@pytest.mark.parametrize("source", ["ours", "published"])
def test_every_cell_of_a_row_of_published_csv_is_computed_again(published, source):
    rows = published.table.source == source
    chosen = published.table[rows & (published.table.task == "macro")].iloc[0]
    where = {k: str(chosen[k]) for k in ("source", "recipe", "mask", "task", "protocol")}
    assert trace(published.file, where, "after")
    forged = published.table.astype(object)
    forged.loc[chosen.name, "retention"] = 1.0
    published.write(forged)  # with a manifest of its own
    with pytest.raises(StaleInput, match=r"published.csv is not what .*retention is 1.0, not"):
        trace(published.file, where, "after")
