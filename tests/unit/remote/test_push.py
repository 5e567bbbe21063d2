"""Promises of push and pull: everything arrives, nothing twice, no damage passes."""

import shutil
import threading
import tracemalloc
from pathlib import Path

import fsspec
import pytest

from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import StaleInput, load_manifest, read_manifest
from ablation.remote import store as stores
from ablation.remote.push import pull, push
from ablation.remote.store import Store, StoreError
from tests.support.small_results import HOME, STUDY, make

WEIGHTS = f"{HOME}/stage3_finetune/3B/seed1/model/model.safetensors"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A finished study, the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(Path("."))
    return tmp_path


@pytest.fixture
def there(here, monkeypatch):
    """Moves to an empty folder, a fresh clone, when called."""

    def move(name="there"):
        (here / name).mkdir()
        monkeypatch.chdir(here / name)
        return here / name

    return move


def content(folder):
    files = (p for p in Path(folder).rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_pull_brings_every_file_and_every_note(here, there):
    push("../store", STUDY, weights=True)
    clone = there()
    assert "which 0" not in pull("../store", STUDY)
    assert content(clone) == content(here / "here")
    assert "of which 0 were missing here" in pull("../store", STUDY)


def test_a_second_push_sends_nothing_and_a_change_only_itself(here):
    first = push("../store", STUDY, weights=True)
    again = push("../store", STUDY, weights=True)
    assert "of which 0 were sent" in again and again.split()[-3:] == first.split()[-3:]
    run = Path(f"{HOME}/recovery.run.json")
    run.write_text(run.read_text().replace('"h"', '"another"'))
    assert "of which 1 were sent" in push("../store", STUDY, weights=True)


def test_one_flipped_byte_anywhere_in_the_store_is_refused_by_name(here, there):
    push("../store", STUDY, weights=True)
    files = [p for p in (here / "store").rglob("*") if p.is_file()]
    assert len(files) > 40
    for number, file in enumerate(files):
        there(f"clone{number}")
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(StoreError, match=file.stem):
            pull("../store", STUDY)
        file.write_bytes(whole)
    there("clone")
    pull("../store", STUDY)


def test_a_check_does_not_hold_weights_in_memory(tmp_path):
    weights, size = tmp_path / "model.safetensors", 64 << 20
    weights.write_bytes(bytes(size))
    store, sha256 = Store(str(tmp_path / "store")), sha256_file(weights)
    store.send({sha256: weights}, "")
    tracemalloc.start()
    try:
        assert store.holds(sha256)
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


def test_damage_in_the_store_is_mended_by_a_push_that_checks(here, there):
    push("../store", STUDY, weights=True)
    damaged = max((here / "store/objects").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert "of which 0 were sent" in push("../store", STUDY, weights=True)
    assert "of which 1 were sent" in push("../store", STUDY, weights=True, check=True)
    there()
    pull("../store", STUDY)


def test_an_object_cut_off_is_sent_again(here):
    push("../store", STUDY, weights=True)
    cut = max((here / "store/objects").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    cut.write_bytes(cut.read_bytes()[:-1])
    assert "of which 1 were sent" in push("../store", STUDY, weights=True)


@pytest.mark.parametrize("after", [0, 1, 10, 30])
def test_an_interrupted_push_goes_on_where_it_was(here, there, monkeypatch, after):
    real, sent = Store._put_one, []

    def interrupted(self, item):
        if len(sent) >= after:
            raise KeyboardInterrupt
        sent.append(item)
        real(self, item)

    monkeypatch.setattr(Store, "_put_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        push("../store", STUDY, weights=True)
    monkeypatch.setattr(Store, "_put_one", real)
    stored = len(Store("../store").sizes())
    done = push("../store", STUDY, weights=True)
    total = len(Store("../store").sizes())
    assert f"of which {total - stored} were sent" in done
    there()
    pull("../store", STUDY)


def test_an_interrupted_pull_goes_on_where_it_was(here, there, monkeypatch):
    push("../store", STUDY, weights=True)
    clone = there()
    real, brought = Store._get, []

    def interrupted(self, name, target, what):
        if len(brought) >= 12:
            raise KeyboardInterrupt
        brought.append(name)
        real(self, name, target, what)

    monkeypatch.setattr(Store, "_get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull("../store", STUDY)
    assert not Path(".snakemake").exists()  # files without notes are not taken for made
    monkeypatch.setattr(Store, "_get", real)
    pull("../store", STUDY)
    assert content(clone) == content(here / "here")


def test_two_pushes_at_once(here, there):
    faults = []

    def one():
        try:
            push("../store", STUDY, weights=True)
        except BaseException as fault:
            faults.append(fault)

    # one process: a scratch file is named by the process, so this is harder than two processes
    both = [threading.Thread(target=one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    clone = there()
    pull("../store", STUDY)
    assert not faults and content(clone) == content(here / "here")


def test_weights_that_stay_are_told_of_and_missed_by_name(here, there):
    assert "weights were not sent (keep_weights): 4 files" in push("../store", STUDY, weights=False)
    there()
    assert "weights are not here: 4 files" in pull("../store", STUDY)
    manifest = Path(f"{HOME}/stage3_finetune/3B/seed1/manifest.json")
    fingerprint = load_manifest(manifest)["fingerprint"]["hash"]
    with pytest.raises(StaleInput, match="model.safetensors is missing.*left it out"):
        read_manifest(manifest, fingerprint)
    # such a clone can push on: what it lacks, it leaves out
    assert "of which 0 were sent" in push("../store", STUDY, weights=True)


def test_a_checkpoint_that_is_absent_as_a_whole_is_no_text(here, there):
    shutil.rmtree(f"{HOME}/stage3_finetune/3B/seed1/model")
    told = push("../store", STUDY, weights=True)
    assert "were not sent (keep_weights): 1 files" in told and "texts" not in told
    there()
    told = pull("../store", STUDY)
    assert "are not here: 1 files" in told and "texts" not in told
    assert not Path(f"{HOME}/left_out.json").exists()


def test_weights_can_be_left_in_the_store(here, there):
    push("../store", STUDY, weights=True)
    there()
    assert "weights are not here: 4 files" in pull("../store", STUDY, weights=False)
    assert not Path(WEIGHTS).exists()
    pull("../store", STUDY)
    assert Path(WEIGHTS).exists()


def test_results_without_metadata_are_pulled_into_an_empty_folder(here, there):
    shutil.rmtree(".snakemake")
    push("../store", STUDY, weights=True)
    there()
    assert "of which 0" not in pull("../store", STUDY)
    assert Path(WEIGHTS).is_file()


def test_damaged_results_are_not_sent(here):
    Path(WEIGHTS).write_bytes(b"x")
    with pytest.raises(StaleInput, match="model.safetensors has changed"):
        push("../store", STUDY, weights=True)
    assert not (here / "store").exists()


def test_results_made_from_other_inputs_are_left_out_and_named(here, there):
    manifest = Path(f"{HOME}/stage3_finetune/3A/seed1/manifest.json")
    other = Path(f"{HOME}/stage3_finetune/3A/seed2/manifest.json")
    manifest.write_bytes(other.read_bytes())  # sealed, but not what stage 4 was made from
    shutil.copytree(other.parent / "model", manifest.parent / "model", dirs_exist_ok=True)
    said = push("../store", STUDY, weights=True)
    assert f"its inputs have changed since: {HOME}/stage4_posteval/3A/seed1/causal/manifest" in said
    there()
    pull("../store", STUDY)
    assert not Path(f"{HOME}/stage4_posteval/3A/seed1").exists()


def test_a_file_of_other_content_is_not_overwritten(here, there):
    push("../store", STUDY, weights=True)
    there()
    Path(HOME).mkdir(parents=True)
    mine = Path(f"{HOME}/recovery.csv")
    mine.write_text("mine")
    with pytest.raises(StoreError, match="recovery.csv"):
        pull("../store", STUDY)
    assert mine.read_text() == "mine"
    pull("../store", STUDY, force=True)
    assert mine.read_text() != "mine"


def test_an_older_push_can_be_pulled_by_the_start_of_its_name(here, there):
    first = push("../store", STUDY, weights=True).split("snapshot ")[1].split()[0]
    before = Path("results/recovery.csv").read_bytes()
    shutil.rmtree("results")
    make(Path("."), learned=0.6)
    push("../store", STUDY, weights=True)
    there()
    pull("../store", STUDY, snapshot=first)
    assert Path("results/recovery.csv").read_bytes() == before
    with pytest.raises(StoreError, match="it has "):
        pull("../store", STUDY, snapshot="0000")


def test_nothing_to_push_and_nothing_to_pull_are_said(here):
    with pytest.raises(StoreError, match="results/other holds no results"):
        push("../store", "other", weights=True)
    with pytest.raises(StoreError, match="has no heads/small.json"):
        pull("../store", STUDY)


def test_any_file_system_of_fsspec_will_do(here, there):
    push("memory://bucket/folder", STUDY, weights=True)
    assert "of which 0 were sent" in push("memory://bucket/folder", STUDY, weights=True)
    clone = there()
    pull("memory://bucket/folder", STUDY)
    assert content(clone) == content(here / "here")


def test_a_missing_package_is_named_by_its_extra(here, monkeypatch):
    def absent(uri, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    with pytest.raises(StoreError, match=r'pip install --editable "\.\[s3\]"'):
        Store("s3://bucket/folder")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="s3://bucket/folder or hf://datasets/owner/name"):
        Store("nonsense://x")


def test_the_hub_gets_few_commits_not_one_a_file(here, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    commits = []

    def commit(self, repo_id, operations, **options):
        commits.append((repo_id, options["repo_type"], [o.path_in_repo for o in operations]))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", commit)
    place = type("Place", (), {"repo_id": "o/n", "repo_type": "dataset", "revision": "main"})
    place.path_in_repo = "sub"
    store = Store("hf://datasets/o/n/sub")
    monkeypatch.setattr(type(store.fs), "resolve_path", lambda self, path: place)
    files = {f"{n:064x}": Path(WEIGHTS) for n in range(stores.FILES_A_COMMIT + 1)}
    store._put([(f"objects/{name[:2]}/{name}", path) for name, path in files.items()])
    assert [len(paths) for *_, paths in commits] == [stores.FILES_A_COMMIT, 1]
    assert commits[0][:2] == ("o/n", "dataset")
    assert commits[0][2][0] == f"sub/objects/00/{0:064x}"


def test_a_service_that_does_not_answer_is_told_with_what_to_look_at(here, monkeypatch):
    """botocore's NoCredentialsError, for one, is no OSError."""

    class NoCredentials(Exception):
        pass

    def refuse(*_, **__):
        raise NoCredentials("Unable to locate credentials")

    store = Store("memory://there")
    for name in ("find", "get_file", "put_file"):
        monkeypatch.setattr(type(store.fs), name, refuse)
    for act in (store.sizes, store.studies, lambda: store.snapshot(STUDY),
                lambda: store.send({"0" * 64: Path(WEIGHTS)}, "")):  # fmt: skip
        with pytest.raises(StoreError, match="memory://there .*NoCredentials.*credentials in the"):
            act()
