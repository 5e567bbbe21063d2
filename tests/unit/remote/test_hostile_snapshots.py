"""Promises about a store that somebody else can write: a pull writes only files of its study."""

import contextlib
import json
import os
import shutil
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pytest

from ablation.lineage.snapshots import open_snapshot
from ablation.provenance.files import canonical_json, sha256_text
from ablation.remote.push import pull, push
from ablation.remote.store import Store, StoreError
from tests.support.small_results import HOME, STUDY, make

MANIFEST = f"{HOME}/base/manifest.json"
OTHER_TABLE = "results/other/recovery.csv"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A store with a finished study."""
    home = tmp_path_factory.mktemp("pushed")
    with contextlib.chdir(home):
        make(Path("."))
        push("store", STUDY, weights=True)
    return home / "store"


@pytest.fixture
def clone(pushed, tmp_path, monkeypatch):
    """An empty folder, the working directory, beside a copy of the store."""
    shutil.copytree(pushed, tmp_path / "store")
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


def encoded(output):
    return urlsafe_b64encode(output.encode()).decode()


def publish(change):
    """Let `change` edit the snapshot in the store, and publish it with correct hashes."""
    store = Store("../store")
    snapshot = store.snapshot(STUDY)
    change(snapshot)
    store.publish(snapshot)


def publish_note(name, text="{}"):
    """Put a file of metadata into the snapshot in the store, in place of that of MANIFEST."""

    def change(snapshot):
        store = Store("../store")
        notes = json.loads(store.read(snapshot["notes"]["sha256"], "notes"))
        del notes[encoded(MANIFEST)]
        notes[name] = text
        content = Path("../notes.json")
        content.write_text(canonical_json(notes))
        sha256 = sha256_text(content.read_text())
        store.send({sha256: content}, "")
        snapshot["notes"] = {"sha256": sha256, "bytes": content.stat().st_size}

    publish(change)


def everything_below(folder):
    """{file: its content} below `folder`, without the store and what the tests put there."""
    kept = {"store", "notes.json"}
    files = (p for p in folder.rglob("*") if p.is_file())
    named = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    return {name: content for name, content in named.items() if name.split("/")[0] not in kept}


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/x",
        "src/ablation/x.py",
        "results/../x",
        OTHER_TABLE,
        "results/other.csv",
        f"{HOME}/../other/recovery.csv",
        f"{HOME}//recovery.csv",
        f"{HOME}/./recovery.csv",
        f"{HOME}/.hidden",
        f"{HOME}/\x1b[2Jrecovery.csv",
        HOME,
    ],
)
@pytest.mark.parametrize("table", ["files", "left_out"])
def test_a_snapshot_cannot_name_a_file_outside_its_study(clone, path, table):
    publish(lambda snapshot: snapshot[table].update({path: snapshot["files"][MANIFEST]}))
    with pytest.raises(StoreError, match=f"outside {HOME}/") as refusal:
        pull("../store", STUDY)
    assert str(refusal.value).isprintable()
    assert everything_below(clone.parent) == {}


@pytest.mark.parametrize("left_out", [{}, {"results/recovery.csv": f"{HOME}/recovery.csv"}])
def test_the_common_table_is_only_a_copy_of_the_table_of_the_study(clone, left_out):
    def change(snapshot):
        files = snapshot["files"]
        snapshot["left_out"] |= {path: files[other] for path, other in left_out.items()}
        files["results/recovery.csv"] = files[MANIFEST]

    publish(change)
    with pytest.raises(StoreError, match="results/recovery.csv"):
        pull("../store", STUDY)
    assert everything_below(clone.parent) == {}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"{encoded(HOME + '/ab')}/../../../Snakefile", id="text after the padding"),
        pytest.param(f"{encoded(MANIFEST)}/../../../Snakefile", id="after a listed output"),
        pytest.param(f"/{encoded(MANIFEST)}", id="an absolute path"),
        pytest.param("../" * 3 + "Snakefile", id="a relative path"),
        pytest.param(encoded(OTHER_TABLE), id="an output of another study"),
        pytest.param(encoded(f"{HOME}/unlisted"), id="an output that is not listed"),
        pytest.param(encoded("results"), id="a folder above the study"),
        pytest.param(encoded(MANIFEST) + "\x1b[2J", id="an escape character"),
    ],
)
def test_a_note_outside_its_study_is_refused(clone, name):
    snakefile = clone / "Snakefile"
    snakefile.write_text("mine")
    publish_note(name, "raise SystemExit('this code ran')")
    with pytest.raises(StoreError, match="metadata"):
        pull("../store", STUDY)
    assert everything_below(clone.parent) == {"clone/Snakefile": b"mine"}


ENVIRONMENTS = {
    "code for the report": b"!!python/object/apply:os.system ['touch ran']",
    "an environment with markup": rb'name: "\x3c/script>"',
    "an environment that repeats a text": b"a: &a [x, x]\nb: [*a, *a]",
    "an environment that is no YAML": b"{",
}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"rule": "r"}, id="no text"),
        pytest.param("{'rule': 'r'}", id="no JSON"),
        pytest.param("[1]", id="no object"),
        pytest.param("[" * 100_000, id="lists in lists"),
        pytest.param('{"rule": 5}', id="a field of another type"),
        pytest.param('{"params": [[1]]}', id="a parameter that is no text"),
        pytest.param('{"record_format_version": "6"}', id="a version that is no number"),
        pytest.param('{"endtime": 1e300}', id="a time after the last one"),
        pytest.param('{"endtime": NaN}', id="a time that is no number"),
        pytest.param('{"rule": "</script><script>x()</script>"}', id="markup for the report"),
        pytest.param('{"container_img_url": "<!--"}', id="markup in an address"),
        pytest.param('{"conda_env": "abc"}', id="an environment that is not encoded"),
        *(
            pytest.param(json.dumps({"conda_env": b64encode(text).decode()}), id=name)
            for name, text in ENVIRONMENTS.items()
        ),
    ],
)
def test_metadata_that_snakemake_does_not_write_is_refused(clone, record):
    """Snakemake would end with an error at each start, or run what `snakemake --report` reads."""
    publish_note(encoded(MANIFEST), record)
    with pytest.raises(StoreError, match="metadata") as refusal:
        pull("../store", STUDY)
    assert str(refusal.value).isprintable()
    assert everything_below(clone.parent) == {}


def test_metadata_of_a_rule_with_a_conda_environment_is_pulled(clone):
    environment = b64encode(b"name: a\ndependencies: [python>=3.11,<3.13, 'pip=24.*']\n").decode()
    record = json.dumps({"rule": "r", "conda_env": environment, "of_a_later_version": [1]})
    publish_note(encoded(MANIFEST), record)
    pull("../store", STUDY)
    assert (Path(".snakemake/metadata") / encoded(MANIFEST)).read_text() == record


def test_a_note_is_written_where_snakemake_reads_it_here(clone):
    """Another file system can split a long name at another length."""
    name = encoded(MANIFEST)
    publish_note(f"@{name[:9]}/@{name[9:20]}/{name[20:]}", '{"rule": "split"}')
    pull("../store", STUDY)
    written = {p for p in Path(".snakemake").rglob("*") if p.is_file() and "split" in p.read_text()}
    assert written == {Path(".snakemake/metadata") / name}


def test_a_pull_through_a_link_that_leaves_the_study_is_refused(clone):
    (clone.parent / "elsewhere").mkdir()
    Path(HOME).mkdir(parents=True)
    Path(f"{HOME}/base").symlink_to(clone.parent / "elsewhere")
    with pytest.raises(StoreError, match="link"):
        pull("../store", STUDY)
    assert not any((clone.parent / "elsewhere").iterdir())


def test_results_that_are_a_link_to_another_disk_are_pulled(clone):
    (clone.parent / "disk").mkdir()
    Path("results").symlink_to(clone.parent / "disk")
    pull("../store", STUDY)
    assert (clone.parent / "disk" / STUDY / "base/manifest.json").is_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(files=[]),
        lambda s: s["files"].update({MANIFEST: None}),
        lambda s: s["files"][MANIFEST].pop("bytes"),
        lambda s: s["files"][MANIFEST].update(sha256="../../outside"),
        lambda s: s["files"][MANIFEST].update(bytes=-1),
        lambda s: s["files"][MANIFEST].update(bytes=10**400),
        lambda s: s.pop("left_out"),
        lambda s: s.update(notes="x"),
    ],
)
def test_a_snapshot_of_another_form_is_refused(clone, change):
    publish(change)
    with pytest.raises(StoreError, match="no snapshot of a push"):
        pull("../store", STUDY)
    assert everything_below(clone.parent) == {}


HEADS = {
    "a head that names no snapshot": canonical_json(
        {"study": STUDY, "sha256": sha256_text(canonical_json({"study": STUDY}))}
    ),
    "lists in lists": "[" * 100_000,
    "half of a surrogate pair": '{"sha256": "", "study": "\\ud800"}',
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_of_another_form_is_refused(clone, head):
    Path(f"../store/heads/{STUDY}.json").write_text(head)
    with pytest.raises(StoreError):
        pull("../store", STUDY)
    assert everything_below(clone.parent) == {}


def test_a_comparison_with_a_push_writes_only_below_its_own_folder(clone):
    outside = clone.parent / "outside/manifest.json"
    publish(lambda s: s["files"].update({str(outside): s["files"][MANIFEST]}))
    with (
        pytest.raises(StoreError, match=f"outside {HOME}/"),
        open_snapshot(os.path.abspath("../store"), STUDY, None),
    ):
        pass
    assert everything_below(clone.parent) == {}
