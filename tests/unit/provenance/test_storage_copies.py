"""Promises of jobs whose files are in a storage: logical paths, complete inputs, kept states."""

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import InputFiles, Log, OutputFiles

from ablation.provenance.files import canonical_json, sha256_text
from ablation.provenance.manifests import StaleInput, load_manifest, read_manifest, write_manifest
from ablation.provenance.storage.bucket import STORAGE, Bucket, Storage, StorageError, is_inside
from ablation.provenance.storage.copies import bring_outputs, is_stored, working_in_copies
from ablation.provenance.storage.states import state_in_storage
from ablation.training.checkpoints import claimed, newest_checkpoint, seal

LOCAL = ".snakemake/storage/fs/mnt/store"  # where Snakemake puts its copies of /mnt/store


def fingerprint(**upstream):
    body = {"stage": "base", "code": "c", "config": {}, "packages": {}, "upstream": upstream}
    return {**body, "hash": sha256_text(str(body))}


def job():
    """Snakemake's job with the paths that it has under `--default-storage-provider fs`."""
    output = OutputFiles(toclone=[f"{LOCAL}/results/s/{name}.csv" for name in "ab"])
    output._set_name("tables", 0, 2)
    return SimpleNamespace(
        input=InputFiles(
            fromdict={"base": f"{LOCAL}/results/s/base.json", "shipped": "resources/x"}
        ),
        output=output,
        log=Log(fromdict={"log": os.path.abspath(f"{LOCAL}/logs/s.log")}),
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of a run, with a storage at `tmp_path/store`."""
    home = tmp_path / "home"
    (home / "resources").mkdir(parents=True)
    (home / "resources/x").write_text("shipped")
    (home / "results/s").mkdir(parents=True)
    (home / "results/s/base.json").write_text("of a run without a storage")
    monkeypatch.chdir(home)
    named = {"uri": str(tmp_path / "store"), "copies": str(home / LOCAL), "options": {}}
    monkeypatch.setenv(STORAGE, json.dumps(named))
    return home


def test_a_job_sees_the_paths_of_a_run_without_a_storage(home):
    copies = home / LOCAL
    (copies / "results/s").mkdir(parents=True)
    (copies / "results/s/base.json").write_text("of the storage")
    one = job()
    with working_in_copies(one):
        assert (one.input.base, one.input.shipped) == ("results/s/base.json", "resources/x")
        assert list(one.output.tables) == ["results/s/a.csv", "results/s/b.csv"]
        assert one.log[0] == str(copies / "logs/s.log")
        assert Path(one.input.shipped).read_text() == "shipped"
        assert Path(one.input.base).read_text() == "of the storage"
        (copies / "results/s/base.json").unlink()  # as Snakemake does for another job
        assert Path(one.input.base).read_text() == "of the storage"
        Path("state/s").mkdir()
        for table in one.output.tables:
            Path(table).write_text(table)
        assert not (copies / "results/s/a.csv").exists()
    assert (copies / "results/s/b.csv").read_text() == "results/s/b.csv"
    assert (home / "state/s").is_dir() and Path.cwd() == home
    assert {path.name for path in copies.iterdir()} == {"results"}


def test_a_job_that_fails_leaves_nothing(home):
    one = job()
    (home / LOCAL / "results/s").mkdir(parents=True)
    (home / LOCAL / "results/s/base.json").touch()
    with pytest.raises(KeyError), working_in_copies(one):
        Path("results/s/a.csv").write_text("half")
        raise KeyError
    assert not list((home / LOCAL).rglob("a.csv")) and (home / "resources/x").exists()


def test_without_a_storage_a_job_stays_as_it_is(home, monkeypatch):
    monkeypatch.delenv(STORAGE)
    one = job()
    with working_in_copies(one):
        assert one.input.base.startswith(LOCAL) and Path.cwd() == home


def stored(home, text="rows"):
    """A manifest whose output no rule declares: both are in the storage, only it is here."""
    store = home.parent / "store"
    (store / "results/s").mkdir(parents=True)
    with_rows = store / "results/s/samples.parquet"
    with_rows.write_text("rows")
    write_manifest(store / "results/s/manifest.json", fingerprint(), [with_rows])
    with_rows.write_text(text)
    folder = home / "job"
    (folder / "results/s").mkdir(parents=True)
    os.chdir(folder)
    manifest = Path("results/s/manifest.json")
    manifest.write_bytes((store / manifest).read_bytes())
    return manifest.as_posix()


def test_outputs_that_no_rule_declares_come_from_the_storage(home):
    manifest, expected = stored(home), fingerprint()["hash"]
    with pytest.raises(StaleInput, match="missing"):
        read_manifest(manifest, expected)
    bring_outputs([manifest])
    read_manifest(manifest, expected)
    Path("results/s/samples.parquet").write_text("left by an earlier run")
    bring_outputs([manifest])
    assert Path("results/s/samples.parquet").read_text() == "rows"


def test_a_table_gets_the_files_that_it_names_and_no_others(home):
    manifest, store = stored(home), home.parent / "store/results/s"
    (store / "run.json").write_text("{}")  # no manifest lists a run record
    bring_outputs([manifest], ("run.json", "curve.jsonl"))
    assert {path.name for path in Path("results/s").iterdir()} == {"manifest.json", "run.json"}


def test_what_was_changed_in_the_storage_is_refused(home):
    manifest = stored(home, text="evil")
    bring_outputs([manifest])
    with pytest.raises(StaleInput, match="has changed"):
        read_manifest(manifest, fingerprint()["hash"])


def test_no_manifest_writes_outside_of_results(home):
    manifest, store = stored(home), home.parent / "store"
    victim = home / "resources/x"
    (home / "job/resources").symlink_to(home / "resources")
    (store / "resources").mkdir()
    (store / "resources/x").write_text("evil")
    evil = store / "resources/x"
    far = "../../../../../../../../resources/x"
    for name in ("../../resources/x", far, str(evil), "..", "../..", "."):
        body = json.loads(Path(manifest).read_text()) | {
            "outputs": {name: {"sha256": "0" * 64, "bytes": 4}},
            "inputs": {name: "0" * 64, "/dev/zero": "0" * 64},
        }
        del body["sha256"]
        body["sha256"] = sha256_text(canonical_json(body))
        Path(manifest).write_text(json.dumps(body))
        load_manifest(manifest)
        bring_outputs([manifest], history=True)
        assert victim.read_text() == "shipped"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "results/../x", "a//b", "results"])
def test_names_that_are_no_files_of_the_storage(name):
    assert not is_stored(name) and (name == "results" or not is_inside(name))


def test_keys_of_a_storage_are_not_printed():
    assert "secret" not in repr(Storage("s3://bucket", "/copies", {"secret": "secret"}))


def test_a_history_is_brought_without_weights(home):
    store = home.parent / "store"
    (store / "results/s/up").mkdir(parents=True)
    os.chdir(store)
    for name in ("rows.csv", "model.safetensors"):
        Path("results/s/up", name).write_text(name)
    up, down = "results/s/up/manifest.json", "results/s/manifest.json"
    write_manifest(up, fingerprint(), sorted(Path("results/s/up").iterdir()))
    write_manifest(down, fingerprint(**{up: "f"}), [])
    os.chdir(home)
    bring_outputs([down], history=True)
    here = {path.name for path in Path("results/s/up").iterdir()}
    assert here == {"manifest.json", "rows.csv"}


# ---- states ---------------------------------------------------------------------------------

FOLDER = "state/s/3B-1"


def checkpoint(step, text="weights"):
    folder = Path(FOLDER, f"checkpoint-{step}")
    folder.mkdir()
    (folder / "model.bin").write_text(f"{text} {step}")
    seal(folder)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to another machine: a new empty folder, with the same storage."""
    named = {"uri": f"{tmp_path}/store", "copies": "", "options": {}}
    monkeypatch.setenv(STORAGE, json.dumps(named))
    monkeypatch.setattr("ablation.provenance.storage.states.SECONDS", 0.01)
    count = iter(range(9))

    def go():
        folder = tmp_path / f"machine{next(count)}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        return tmp_path / "store" / FOLDER

    return go


def test_a_training_goes_on_on_another_machine(machine, capsys):
    there = machine()
    with pytest.raises(KeyboardInterrupt), state_in_storage(FOLDER), claimed(FOLDER):
        checkpoint(3)
        Path(FOLDER, "resumes").write_text("1\n")
        Path(FOLDER, "checkpoint-6").mkdir()  # was being written
        raise KeyboardInterrupt
    assert {path.name for path in there.iterdir()} == {"checkpoint-3", "resumes"}
    machine()
    with state_in_storage(FOLDER), claimed(FOLDER):
        assert "goes on from checkpoint-3" in capsys.readouterr().out
        assert newest_checkpoint(FOLDER).joinpath("model.bin").read_text() == "weights 3"
        assert Path(FOLDER, "resumes").read_text() == "1\n"
    assert not there.exists() or not [path for path in there.rglob("*") if path.is_file()]


def test_states_are_saved_while_the_training_runs_and_old_ones_go(machine):
    there = machine()
    with state_in_storage(FOLDER), claimed(FOLDER):
        for step in (3, 6, 9):
            checkpoint(step)
            wait_for(there / f"checkpoint-{step}/complete")
        wait_for(there / "checkpoint-3/model.bin", there=False)
        assert (there / "checkpoint-6/complete").exists()


def test_a_file_that_changes_without_growing_is_saved_again(machine):
    there = machine() / "resumes"
    with state_in_storage(FOLDER), claimed(FOLDER):
        Path(FOLDER, "resumes").write_text("1")
        wait_for(there, text="1")
        Path(FOLDER, "resumes").write_text("2")
        wait_for(there, text="2")


def wait_for(path, there=True, text=None):
    end = time.monotonic() + 20
    while path.exists() != there or (text and path.read_text() != text):
        assert time.monotonic() < end, path
        time.sleep(0.005)


def test_a_copy_that_was_cut_off_is_not_resumed(machine):
    there = machine()
    (there / "checkpoint-6").mkdir(parents=True)
    (there / "checkpoint-6/model.bin").write_text("half")
    with state_in_storage(FOLDER), claimed(FOLDER):
        assert newest_checkpoint(FOLDER) is None


def test_the_newer_of_two_states_wins(machine):
    machine()
    Path(FOLDER).mkdir(parents=True)
    checkpoint(3)
    first = Path.cwd()
    there = machine()
    with pytest.raises(KeyError), state_in_storage(FOLDER), claimed(FOLDER):
        checkpoint(9)
        raise KeyError
    os.chdir(first)
    with state_in_storage(FOLDER), claimed(FOLDER):
        assert newest_checkpoint(FOLDER).name == "checkpoint-9"
    assert not [path for path in there.rglob("*") if path.is_file()]


def test_a_storage_that_fails_later_ends_no_training(machine, capsys, monkeypatch):
    machine()

    tried = threading.Event()

    def fail(*_):
        tried.set()
        raise OSError("the disk of the storage is full")

    with state_in_storage(FOLDER), claimed(FOLDER):
        monkeypatch.setattr(Bucket, "put", fail)
        checkpoint(3)
        assert tried.wait(20)
    assert "was not saved" in capsys.readouterr().out


def test_a_storage_without_a_driver_says_what_it_needs():
    with pytest.raises(StorageError, match=r'pip install "\.\[s3\]"'):
        Bucket("nosuchprotocol://bucket/x", {})
