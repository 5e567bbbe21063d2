"""Promises of provenance: hashes move when results may move, and only then; damage is named."""

import json
import os
import shutil
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation import machine, provenance
from ablation.code_hash import code_closure, code_tokens, module_file

SOURCE = '''
"""A module."""

import math


def area(r, name="x"):
    """The area."""
    # a comment
    return f"{name}: {math.pi * r**2:.3f}"
'''


@pytest.mark.parametrize(
    "edited",
    [
        SOURCE.replace("# a comment", "# another comment, longer"),
        SOURCE.replace("    # a comment\n", ""),
        SOURCE.replace('"""The area."""', '"""What a circle covers."""'),
        SOURCE.replace('    """The area."""\n', ""),
        SOURCE.replace('"""A module."""', ""),
        SOURCE.replace("\n\n\n", "\n\n\n\n\n"),
        SOURCE.replace("\n    ", "\n        "),
    ],
    ids=["comment", "comment gone", "docstring", "gone", "module's gone", "blank", "indent"],
)
def test_code_hash_ignores_what_is_not_executed(edited):
    assert edited != SOURCE
    assert code_tokens(edited) == code_tokens(SOURCE)


@pytest.mark.parametrize(
    "old, new",
    [
        ("r**2", "r**3"),
        (":.3f", ":.4f"),
        ('"x"', '"y"'),
        ("{name}: ", "{name} : "),
        ("math.pi", "3"),
    ],
)
def test_code_hash_sees_every_real_change(old, new):
    assert old in SOURCE
    assert code_tokens(SOURCE.replace(old, new)) != code_tokens(SOURCE)


def test_code_hash_sees_where_a_statement_ends():
    assert code_tokens("a = 1\n-1\n") != code_tokens("a = 1 - 1\n")


def test_code_hash_sees_what_belongs_to_a_block():
    inside = "if a:\n    b()\n    c()\n"
    assert code_tokens(inside) != code_tokens("if a:\n    b()\nc()\n")


def test_nested_fstrings_are_taken_as_their_text():
    # Python 3.12 and later split f-strings into tokens, 3.11 does not: both must agree.
    tokens = code_tokens("x = f\"a{f'{b}' + 'c'}d\"\n").splitlines()
    assert "f\"a{f'{b}' + 'c'}d\"" in tokens


def test_closure_follows_imports_and_leaves_out_what_shapes_no_number():
    closure = code_closure("workflow/scripts/recovery.py")
    assert {"ablation.recovery", "ablation.statistics", "ablation.conditions"} <= set(closure)
    assert not set(closure) & {"ablation.figures", "ablation.provenance", "ablation.config"}


def test_table_and_figure_code_never_imports_torch():
    import ast

    for script in ("recovery", "figures", "base"):
        for module in code_closure(f"workflow/scripts/{script}.py"):
            tree = ast.parse(module_file(module).read_text())
            names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not {n for n in names if n and n.split(".")[0] in ("torch", "transformers")}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=5))
def test_canonical_json_does_not_see_the_order_of_keys(mapping):
    reordered = dict(reversed(mapping.items()))
    assert provenance.canonical_json(mapping) == provenance.canonical_json(reordered)
    assert json.loads(provenance.canonical_json(mapping)) == mapping


def test_local_part_of_a_version_is_left_out():
    assert "+" not in provenance.package_versions(["torch"])["torch"]


def test_an_upstream_change_reaches_every_stamp_below():
    script = "workflow/scripts/recovery.py"
    first, other = (provenance.stamp("a", script, {"lr": lr}, ()) for lr in (1, 2))
    below = [provenance.stamp("b", script, {}, (), {"a.json": up}) for up in (first, other)]
    assert below[0]["hash"] != below[1]["hash"]


@pytest.fixture
def made(tmp_path):
    """A folder with a manifest over a file and a model folder."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"\0" * 64)
    (tmp_path / "metrics.json").write_text("{}")
    stamp = provenance.stamp("s", "workflow/scripts/recovery.py", {"x": 1}, ())
    path = tmp_path / "manifest.json"
    provenance.write_manifest(
        path, stamp, [tmp_path / "model", tmp_path / "metrics.json"], mask="c"
    )
    return path, stamp


def test_manifest_reads_back_and_repeats_its_bytes(made):
    path, stamp = made
    manifest = provenance.read_manifest(path, stamp["hash"])
    assert manifest["mask"] == "c" and set(manifest["outputs"]) == {
        "metrics.json",
        "model/weights.bin",
    }
    first = path.read_bytes()
    provenance.write_manifest(
        path, stamp, [path.parent / "model", path.parent / "metrics.json"], mask="c"
    )
    assert path.read_bytes() == first


def test_manifest_of_another_configuration_is_refused(made):
    path, _ = made
    other = provenance.stamp("s", "workflow/scripts/recovery.py", {"x": 2}, ())
    with pytest.raises(provenance.StaleInput, match="another configuration or code"):
        provenance.read_manifest(path, other["hash"])


@pytest.mark.parametrize("damage", ["flip", "missing", "extra", "longer"])
def test_damaged_outputs_are_refused_by_name(made, damage):
    path, stamp = made
    weights = path.parent / "model" / "weights.bin"
    if damage == "flip":
        weights.write_bytes(b"\0" * 40 + b"\1" + b"\0" * 23)
    elif damage == "missing":
        weights.unlink()
    elif damage == "extra":
        (weights.parent / "extra.bin").write_bytes(b"")
    else:
        weights.write_bytes(b"\0" * 65)
    name = "extra.bin" if damage == "extra" else "weights.bin"
    with pytest.raises(provenance.StaleInput, match=name):
        provenance.read_manifest(path, stamp["hash"])


def test_weights_may_be_gone_where_only_other_outputs_matter(made):
    path, stamp = made
    (path.parent / "model" / "weights.bin").unlink()
    provenance.read_manifest(path, stamp["hash"], only=["metrics.json"])
    (path.parent / "metrics.json").write_text("{}\n\n")
    with pytest.raises(provenance.StaleInput, match="metrics.json has changed"):
        provenance.read_manifest(path, stamp["hash"], only=["metrics.json"])


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "table.csv"
    provenance.write_text(file, "old")
    with pytest.raises(RuntimeError), provenance.atomic_path(file) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def write_folder(path, content):
    with provenance.atomic_path(path) as scratch:
        scratch.mkdir()
        for name in "ab":
            (scratch / name).write_text(content)


def content(folder):
    """The text of both files, `gone`, or `damaged`."""
    texts = [file.read_text() for file in folder.iterdir()] if folder.is_dir() else ["gone"] * 2
    return texts[0] if len(texts) == 2 and texts[0] == texts[1] else "damaged"


def killed_at(moment, folder):
    """Whether a process that replaces `folder` was killed before its `moment`th act on names."""
    child = os.fork()
    if child == 0:
        acts = count(1)

        def fatal(act):
            def wrapped(*args, **kwargs):
                if next(acts) == moment:
                    os._exit(9)
                return act(*args, **kwargs)

            return wrapped

        for act in ("replace", "unlink", "rmdir"):
            setattr(os, act, fatal(getattr(os, act)))
        write_folder(folder, "new")
        os._exit(0)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("removed", [False, True], ids=["", "and the output was then removed"])
def test_a_kill_while_a_folder_is_replaced_loses_nothing_and_leaves_no_half(tmp_path, removed):
    seen = set()
    for moment in count(1):
        folder = tmp_path / str(moment) / "model"
        write_folder(folder, "old")
        if not killed_at(moment, folder):
            break
        seen.add(content(folder))
        if removed:  # as Snakemake does with what a failed job leaves
            shutil.rmtree(folder, ignore_errors=True)
        before = content(folder)
        with pytest.raises(RuntimeError), provenance.atomic_path(folder):
            raise RuntimeError  # the next attempt gets no further
        assert content(folder) == before or (before, content(folder)) == ("gone", "old")
        assert removed or content(folder) != "gone"
        write_folder(folder, "newest")
        assert content(folder) == "newest" and not folder.with_name(".model.old").exists()
    assert content(folder) == "new" and list(folder.parent.iterdir()) == [folder]
    assert seen == {"old", "gone", "new"}


def test_a_file_never_takes_a_folders_place(tmp_path):
    write_folder(tmp_path / "results", "kept")
    before = content(tmp_path / "results")
    with pytest.raises(IsADirectoryError, match="results is a folder"):
        provenance.write_text(tmp_path / "results", "x")
    assert content(tmp_path / "results") == before
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize(
    "path, command",
    [
        ("results/micro/recovery.csv", "snakemake --cores all --force results/micro/recovery.csv"),
        ("/a/results/b/results/micro/x/manifest.json", "--force results/micro/x/manifest.json"),
        ("/a/results/mine/x/m.json", "results/mine/x/m.json --configfile (the file of mine)"),
        ("results/recovery.csv", "--force results/recovery.csv"),
        ("elsewhere/base/manifest.json", "--force elsewhere/base/manifest.json"),
    ],
)
def test_a_remedy_is_a_command_for_the_repositorys_root(path, command):
    assert provenance.command_for(path).endswith(command)


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path, monkeypatch):
    folder, real = tmp_path / "model", os.replace
    write_folder(folder, "old")

    def refused(source, target):
        if str(source).endswith(".part"):
            raise PermissionError
        real(source, target)

    monkeypatch.setattr(provenance.os, "replace", refused)
    with pytest.raises(PermissionError):
        write_folder(folder, "new")
    assert content(folder) == "old" and list(tmp_path.iterdir()) == [folder]


def test_run_record_holds_what_happened(tmp_path):
    with machine.run_record(tmp_path / "run.json", recipe="3A") as record:
        record["steps"] = 7
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["recipe"] == "3A" and run["steps"] == 7 and run["seconds"] >= 0 and run["host"]


def test_hidden_files_are_nobodys_output(made):
    path, stamp = made
    for name in (".gitattributes", ".snakemake_timestamp", ".cache/huggingface/x"):
        hidden = path.parent / "model" / name
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text("")
    provenance.read_manifest(path, stamp["hash"])
    assert [p.name for p in provenance.visible_files(path.parent / "model")] == ["weights.bin"]


def test_a_manifest_made_from_other_inputs_is_refused(made):
    """Equal stamps, other bytes upstream: a base whose weights were replaced, say."""
    path, stamp = made
    late = provenance.stamp("t", "workflow/scripts/recovery.py", {}, (), {str(path): stamp})
    below = path.parent / "late.json"
    provenance.write_manifest(below, late, [])
    provenance.read_manifest(below, late["hash"])
    provenance.write_manifest(path, stamp, [], mask="other")
    with pytest.raises(provenance.StaleInput, match="from another .*manifest.json"):
        provenance.read_manifest(below, late["hash"])


def test_json_lines_end_at_newlines_alone(tmp_path):
    records = [{"text": "a\u2028b\x85c\rd"}, {"text": "é"}]
    provenance.write_json_lines(tmp_path / "r.jsonl", records)
    assert provenance.read_json_lines(tmp_path / "r.jsonl") == records
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ValueError, match=r"r.jsonl, line 3"):
        provenance.read_json_lines(tmp_path / "r.jsonl")


def test_an_edited_fact_is_refused(made):
    """A leak's verdict is in no other file: changed by hand, it must not reach a table."""
    path, stamp = made
    path.write_text(path.read_text().replace('"mask": "c"', '"mask": "d"'))
    with pytest.raises(provenance.StaleInput, match="has been edited"):
        provenance.read_manifest(path, stamp["hash"])
