"""Promises of archives: small, without texts, complete for trace and tables, and safe to open."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.cli.main import main
from ablation.lineage.trace import trace
from ablation.provenance.files import sha256_file
from ablation.provenance.manifests import LEFT_OUT
from ablation.remote import archive, sample_columns
from ablation.remote.push import pull, push
from ablation.remote.sample_columns import put_together, take_apart
from ablation.remote.store import StoreError
from tests.support.small_results import HOME, STUDY, make

TEXTS = f"{HOME}/base/items/a.jsonl"
FILE = "../small.zip"
RECOMPUTED = ("recovery.csv", "contrasts.csv", "per_task.csv")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a finished study in `here` and its archive beside it."""
    folder = tmp_path_factory.mktemp("archived")
    (folder / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        make(Path("."))
        push(FILE, STUDY, weights=False)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, template):
    """A copy of a finished study, the working directory, and of its archive beside it."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.fixture
def clone(here, monkeypatch):
    """An empty folder, the working directory."""
    (here / "clone").mkdir()
    monkeypatch.chdir(here / "clone")
    return here / "clone"


def members(file=FILE):
    with zipfile.ZipFile(file) as source:
        return {name: source.read(name) for name in source.namelist()}


def rewrite(content, file=FILE):
    with zipfile.ZipFile(file, "w") as target:
        for name, data in content.items():
            target.writestr(name, data)


def test_everything_but_weights_and_texts_comes_out_again(here, clone):
    said = pull(FILE, None)
    assert "texts of items and records are not here" in said and "4 files" in said
    there = {p.relative_to(here / "here"): p for p in (here / "here").rglob("*") if p.is_file()}
    for name, file in there.items():
        if name.suffix == ".safetensors" or str(name) == TEXTS:
            assert not name.exists()
        else:
            assert name.read_bytes() == file.read_bytes(), name
    assert "of which 0 were missing here" in pull(FILE, STUDY)


def test_equal_results_give_equal_bytes_and_texts_are_nowhere(here):
    Path(TEXTS).write_text('{"query": "a text that nobody may publish"}\n')
    before = Path(FILE).read_bytes()
    with pytest.raises(Exception, match="has changed since"):
        push("../again.zip", STUDY, weights=False)
    assert not Path("../again.zip").exists()
    shutil.rmtree("results"), shutil.rmtree(".snakemake")
    make(Path("."))
    push("../again.zip", STUDY, weights=False)
    assert Path("../again.zip").read_bytes() == before
    assert not any(b'"query"' in content for content in members().values())


def test_what_conditions_share_is_stored_once(here):
    whole = sum(p.stat().st_size for p in Path(HOME).rglob("samples.parquet"))
    columns = json.loads(members()["columns.json"])["files"]
    assert len(columns) == len({sha256_file(p) for p in Path(HOME).rglob("samples.parquet")})
    parts = [part for of_file in columns.values() for part in of_file]
    assert len(set(parts)) < len(parts) / 4
    stored = members()
    assert sum(len(stored[archive.object_path(part)]) for part in set(parts)) < whole / 3


def test_a_cell_is_traced_and_all_tables_are_computed_again(clone, capsys):
    pull(FILE, None)
    where = {"recipe": "3B", "seed": "all", "mask": "prefill_bidir", "task": "macro"}
    assert trace(f"{HOME}/recovery.csv", where, "recovered")["accuracies"]
    assert main(["verify", HOME, "--recompute"]) == 0
    told = capsys.readouterr().out
    assert "of weights and 1 files of texts are not here: as they were" in told
    rows = sum(len(pd.read_csv(file)) for file in (Path(HOME, name) for name in RECOMPUTED))
    assert f"recomputed: {rows} of {rows} rows of the tables are what" in told


@pytest.mark.parametrize("name", RECOMPUTED)
def test_a_table_that_its_sample_rows_do_not_give_is_found(here, name, capsys):
    """Even if its manifest and all that names it were written anew."""
    file = Path(HOME, name)
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    number = next(c for c in table if table[c].iloc[0].startswith("0."))
    table.loc[0, number] = "0.123456789"
    other = table.to_csv(index=False)
    file.write_text(other)
    seal_again(Path(HOME, "recovery.manifest.json"), name)
    if name == "recovery.csv":
        Path("results/recovery.csv").write_text(other)
    assert main(["verify", HOME]) == 0
    assert main(["verify", HOME, "--recompute"]) == 1
    assert f"{name} is not what its sample rows give: {number} is 0.123456789" in (
        capsys.readouterr().out
    )
    file.write_text(table.drop(index=1).to_csv(index=False))
    seal_again(Path(HOME, "recovery.manifest.json"), name)
    main(["verify", HOME, "--recompute"])
    assert f"has {len(table) - 1} rows, and its sample rows give {len(table)}" in (
        capsys.readouterr().out
    )


def seal_again(path, name):
    from ablation.provenance.files import write_json
    from ablation.provenance.manifests import _own_hash

    file, manifest = path.parent / name, json.loads(path.read_text())
    manifest["outputs"][name] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    write_json(path, manifest | {"sha256": _own_hash(manifest)})


def test_only_what_the_archive_left_out_may_be_missing(clone, capsys):
    pull(FILE, None)
    Path(HOME, "stage1_baseline/evaluation.json").unlink()
    assert main(["verify", HOME]) == 1
    assert "evaluation.json is missing" in capsys.readouterr().out
    Path(HOME, LEFT_OUT).write_text("nonsense")
    assert main(["verify", HOME]) == 2
    assert "is no list of files" in capsys.readouterr().err


def test_results_from_an_archive_can_be_archived_and_compared_again(here, clone, capsys):
    pull(FILE, None)
    push("../second.zip", STUDY, weights=False)
    assert members("../second.zip") == members()
    assert main(["diff", HOME, FILE]) == 0
    assert "the same" in capsys.readouterr().out.lower()


def test_files_of_other_content_stay_as_they_are(clone):
    table = Path(HOME, "recovery.csv")
    table.parent.mkdir(parents=True)
    table.write_text("mine")
    with pytest.raises(StoreError, match="have another content here"):
        pull(FILE, None)
    assert [p for p in clone.rglob("*") if p.is_file()] == [clone / table]
    pull(FILE, None, force=True)
    assert table.read_text() != "mine"


# ---- hostile archives -----------------------------------------------------------------------

OUTSIDE = ["../outside", "/tmp/outside", "objects/ab/../../outside", f"objects/ab/{'c' * 64}"]
OUTSIDE += ["heads/../../x.json", "heads/a/b.json", "objects/aa/" + "a" * 64 + "/x", "notes.txt"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_that_no_push_writes_is_refused(clone, name):
    rewrite(members() | {name: b"x"})
    with pytest.raises(StoreError, match="which no push writes. Nothing was written"):
        pull(FILE, None)
    assert not list(clone.iterdir())


def test_a_name_that_is_there_twice_is_refused(clone):
    with zipfile.ZipFile(FILE, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("columns.json", b"{}")
    with pytest.raises(StoreError, match="'columns.json', which no push writes"):
        pull(FILE, None)


def test_more_than_the_disk_holds_is_refused_before_it_is_unpacked(clone, monkeypatch):
    content = members()
    content["objects/aa/" + "a" * 64] = bytes(50_000_000)
    with zipfile.ZipFile(FILE, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in content.items():
            target.writestr(name, data)
    usage = shutil.disk_usage(".")._replace(free=60_000_000)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StoreError, match="and 60000000 are free on this disk"):
        pull(FILE, None)
    assert not list(clone.iterdir())


def test_another_column_in_place_of_one_is_found(clone):
    content = members()
    columns = json.loads(content["columns.json"])
    one, two = list(columns["files"].values())[:2]
    unlike = next(i for i in range(len(one)) if one[i] != two[i])
    one[unlike] = two[unlike]
    content["columns.json"] = json.dumps(columns).encode()
    rewrite(content)
    with pytest.raises(StoreError, match="give other bytes"):
        pull(FILE, None)


def test_another_version_of_pyarrow_is_named(clone):
    content = members()
    columns = json.loads(content["columns.json"]) | {"pyarrow": "1.2.3"}
    first = next(iter(columns["files"].values()))
    first[0], first[1] = first[0], first[2]
    rewrite(content | {"columns.json": json.dumps(columns).encode()})
    with pytest.raises(StoreError, match=r"written by pyarrow 1\.2\.3, and this is"):
        pull(FILE, None)


@pytest.mark.parametrize(
    "columns",
    [b"", b"[]", b"{}", b'{"pyarrow": 1, "files": {}}', b'{"pyarrow": "1", "files": {"../x": []}}']
    + [json.dumps({"pyarrow": "1", "files": {"a" * 64: names}}).encode() for names in ([], ["..."])]
    + [json.dumps({"pyarrow": "1", "files": {"a" * 64: ["b" * 64] * 2}}).encode()]
    + [b"[" * 100_000],
)
def test_nonsense_in_place_of_columns_is_refused(clone, columns):
    rewrite(members() | {"columns.json": columns})
    with pytest.raises(StoreError, match="is damaged, or no archive"):
        pull(FILE, None)
    assert not list(clone.iterdir())


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30, -1000])
def test_a_part_of_an_archive_is_refused(clone, cut):
    whole = Path(FILE).read_bytes()
    Path(FILE).write_bytes(whole[:cut])
    with pytest.raises(StoreError, match="damaged"):
        pull(FILE, None)
    assert not list(clone.iterdir())


def test_no_changed_byte_passes(clone):
    whole = Path(FILE).read_bytes()
    for place in np.random.default_rng(7).integers(0, len(whole), 60):
        other = bytearray(whole)
        other[place] ^= 0x10
        Path(FILE).write_bytes(other)
        shutil.rmtree("results", ignore_errors=True)
        try:
            pull(FILE, None)
        except StoreError:
            continue  # it was found; a changed time of a member is read over
        for file in Path(HOME).rglob("*manifest.json"):
            assert sha256_file(file) == sha256_file(Path("../here", file))


def test_what_is_not_there_is_named(clone):
    with pytest.raises(StoreError, match="nothing.zip is not there; an archive"):
        pull("nothing.zip", None)
    assert main(["pull", "nothing.zip"]) == 2


# ---- columns --------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(st.text(max_size=5), st.integers(-9, 9), st.floats(allow_nan=False), st.booleans()),
    max_size=20,
)


@given(rows=ROWS)
def test_any_rows_come_out_of_their_columns_byte_for_byte(rows):
    buffer = io.BytesIO()
    names = ["task", "doc_id", "loglikelihood", "is_greedy"]
    pd.DataFrame(rows, columns=names).to_parquet(buffer, index=False)
    parts = take_apart(buffer.getvalue())
    assert parts is None or put_together(parts) == buffer.getvalue()
    assert parts or not rows


@pytest.mark.parametrize("version", ["9.0.1", "125.10.1-SNAPSHOT"])
def test_rows_of_another_version_of_pyarrow_come_out_byte_for_byte(version):
    """A study is often scored on a machine that has another one."""
    buffer = io.BytesIO()
    pd.DataFrame({"task": ["piqa"] * 40, "doc_id": range(40)}).to_parquet(buffer, index=False)
    here = pq.read_metadata(buffer).created_by
    content = sample_columns._written(pq.read_table(buffer), f"parquet-cpp-arrow version {version}")
    assert sample_columns._written(pq.read_table(buffer), here) == buffer.getvalue()
    assert pq.read_metadata(io.BytesIO(content)).created_by.endswith(f" {version}")
    assert pq.read_table(io.BytesIO(content)).equals(pq.read_table(buffer))
    parts = take_apart(content)
    assert parts and put_together(parts) == content


@pytest.mark.parametrize("name", ["x" * 128, "Zürich 1.0"])
def test_a_file_of_a_program_that_no_footer_of_ours_can_name_is_kept_whole(name, monkeypatch):
    buffer = io.BytesIO()
    pd.DataFrame({"a": range(9)}).to_parquet(buffer, index=False)
    metadata = SimpleNamespace(created_by=name)
    monkeypatch.setattr(sample_columns.pq, "read_metadata", lambda file: metadata)
    assert take_apart(buffer.getvalue()) is None


@pytest.mark.parametrize("end", [8, 30])
def test_damaged_columns_are_a_value_error(end):
    buffer = io.BytesIO()
    pd.DataFrame({"a": range(9)}).to_parquet(buffer, index=False)
    schema, column = take_apart(buffer.getvalue())
    with pytest.raises(ValueError):
        put_together([schema, column[:-end] + bytes(end - 4) + column[-4:]])


def test_a_file_written_in_another_way_is_kept_whole():
    buffer = io.BytesIO()
    pd.DataFrame({"a": range(9)}).to_parquet(buffer, compression="gzip")
    assert take_apart(buffer.getvalue()) is None


def test_columns_of_unlike_lengths_are_no_rows():
    parts = []
    for count in (3, 4):
        buffer = io.BytesIO()
        pd.DataFrame({"a": range(count), "b": range(count)}).to_parquet(buffer, index=False)
        parts.append(take_apart(buffer.getvalue()))
    with pytest.raises(ValueError, match=r"columns of \[3, 4\] rows"):
        put_together([parts[0][0], parts[0][1], parts[1][2]])
