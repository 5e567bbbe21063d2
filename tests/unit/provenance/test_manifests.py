"""Promises of provenance: hashes change only with what changes results; damage is refused."""

import json
import os
import shutil
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.data.json_lines import read_json_lines
from ablation.provenance.atomic import atomic_path
from ablation.provenance.code_hash import code_closure, code_tokens, module_file
from ablation.provenance.files import (
    canonical_json,
    sha256_text,
    visible_files,
    write_json_lines,
    write_text,
)
from ablation.provenance.fingerprints import make_fingerprint, package_versions
from ablation.provenance.manifests import (
    StaleInput,
    load_manifest,
    outputs_here,
    read_manifest,
    write_manifest,
)
from ablation.provenance.run_records import run_record

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
        SOURCE.replace('"""The area."""', '"""The area of a circle."""'),
        SOURCE.replace('    """The area."""\n', ""),
        SOURCE.replace('"""A module."""', ""),
        SOURCE.replace("\n\n\n", "\n\n\n\n\n"),
        SOURCE.replace("\n    ", "\n        "),
    ],
    ids=[
        "comment",
        "no comment",
        "docstring",
        "no docstring",
        "no module docstring",
        "blank",
        "indent",
    ],
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
def test_code_hash_depends_on_every_token_of_code(old, new):
    assert old in SOURCE
    assert code_tokens(SOURCE.replace(old, new)) != code_tokens(SOURCE)


def test_code_hash_depends_on_the_ends_of_statements():
    assert code_tokens("a = 1\n-1\n") != code_tokens("a = 1 - 1\n")


def test_code_hash_depends_on_the_blocks_of_statements():
    inside = "if a:\n    b()\n    c()\n"
    assert code_tokens(inside) != code_tokens("if a:\n    b()\nc()\n")


def test_a_nested_fstring_counts_as_one_token():
    # Python 3.12 and later split f-strings into tokens, 3.11 does not; both must agree.
    tokens = code_tokens("x = f\"a{f'{b}' + 'c'}d\"\n").splitlines()
    assert "f\"a{f'{b}' + 'c'}d\"" in tokens


def test_the_closure_follows_imports_and_leaves_out_modules_without_influence_on_numbers():
    closure = code_closure("workflow/scripts/recovery.py")
    assert {
        "ablation.analysis.recovery",
        "ablation.analysis.statistics",
        "ablation.analysis.conditions",
    } <= set(closure)
    assert not set(closure) & {
        "ablation.report.figures",
        "ablation.provenance.manifests",
        "ablation.config",
    }


def test_table_and_figure_code_never_imports_torch():
    import ast

    for script in ("recovery", "figures"):
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
def test_canonical_json_does_not_depend_on_the_order_of_keys(mapping):
    reordered = dict(reversed(mapping.items()))
    assert canonical_json(mapping) == canonical_json(reordered)
    assert json.loads(canonical_json(mapping)) == mapping


def test_local_part_of_a_version_is_left_out():
    assert "+" not in package_versions(["torch"])["torch"]


def test_an_upstream_change_changes_every_fingerprint_below():
    script = "workflow/scripts/recovery.py"
    first, other = (make_fingerprint("a", script, {"lr": lr}, ()) for lr in (1, 2))
    below = [make_fingerprint("b", script, {}, (), {"a.json": up}) for up in (first, other)]
    assert below[0]["hash"] != below[1]["hash"]


@pytest.fixture
def made(tmp_path):
    """A folder with a manifest over a file and a model folder."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"\0" * 64)
    (tmp_path / "metrics.json").write_text("{}")
    fingerprint = make_fingerprint("s", "workflow/scripts/recovery.py", {"x": 1}, ())
    path = tmp_path / "manifest.json"
    write_manifest(path, fingerprint, [tmp_path / "model", tmp_path / "metrics.json"], mask="c")
    return path, fingerprint


def test_a_manifest_is_read_back_and_written_with_equal_bytes(made):
    path, fingerprint = made
    manifest = read_manifest(path, fingerprint["hash"])
    assert manifest["mask"] == "c" and set(manifest["outputs"]) == {
        "metrics.json",
        "model/weights.bin",
    }
    first = path.read_bytes()
    write_manifest(
        path, fingerprint, [path.parent / "model", path.parent / "metrics.json"], mask="c"
    )
    assert path.read_bytes() == first


def test_manifest_of_another_configuration_is_refused(made):
    path, _ = made
    other = make_fingerprint("s", "workflow/scripts/recovery.py", {"x": 2}, ())
    with pytest.raises(StaleInput, match="another configuration or code"):
        read_manifest(path, other["hash"])


@pytest.mark.parametrize("damage", ["flip", "missing", "extra", "longer"])
def test_damaged_outputs_are_refused_by_name(made, damage):
    path, fingerprint = made
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
    with pytest.raises(StaleInput, match=name):
        read_manifest(path, fingerprint["hash"])


def test_weights_may_be_missing_if_only_other_outputs_are_verified(made):
    path, fingerprint = made
    (path.parent / "model" / "weights.bin").unlink()
    read_manifest(path, fingerprint["hash"], only=["metrics.json"])
    (path.parent / "metrics.json").write_text("{}\n\n")
    with pytest.raises(StaleInput, match="metrics.json has changed"):
        read_manifest(path, fingerprint["hash"], only=["metrics.json"])


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "table.csv"
    write_text(file, "old")
    with pytest.raises(RuntimeError), atomic_path(file) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def write_folder(path, content):
    with atomic_path(path) as scratch:
        scratch.mkdir()
        for name in "ab":
            (scratch / name).write_text(content)


def content(folder):
    """The text of both files if it is equal, else `damaged`; `gone` without the folder."""
    texts = [file.read_text() for file in folder.iterdir()] if folder.is_dir() else ["gone"] * 2
    return texts[0] if len(texts) == 2 and texts[0] == texts[1] else "damaged"


def killed_at(moment, folder):
    """Whether a process that replaces `folder` was killed before its `moment`th renaming."""
    child = os.fork()
    if child == 0:
        calls = count(1)

        def killing(function):
            def wrapped(*args, **kwargs):
                if next(calls) == moment:
                    os._exit(9)
                return function(*args, **kwargs)

            return wrapped

        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, killing(getattr(os, name)))
        write_folder(folder, "new")
        os._exit(0)
    return os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("removed", [False, True], ids=["", "and the output was then removed"])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_folder(tmp_path, removed):
    seen = set()
    for moment in count(1):
        folder = tmp_path / str(moment) / "model"
        write_folder(folder, "old")
        if not killed_at(moment, folder):
            break
        seen.add(content(folder))
        if removed:  # as Snakemake removes the outputs of a failed job
            shutil.rmtree(folder, ignore_errors=True)
        before = content(folder)
        with pytest.raises(RuntimeError), atomic_path(folder):
            raise RuntimeError  # the next attempt fails too
        assert content(folder) == before or (before, content(folder)) == ("gone", "old")
        assert removed or content(folder) != "gone"
        write_folder(folder, "newest")
        assert content(folder) == "newest" and not folder.with_name(".model.old").exists()
    assert content(folder) == "new" and list(folder.parent.iterdir()) == [folder]
    assert seen == {"old", "gone", "new"}


def test_a_file_never_replaces_a_folder(tmp_path):
    write_folder(tmp_path / "results", "kept")
    before = content(tmp_path / "results")
    with pytest.raises(IsADirectoryError, match="results is a folder"):
        write_text(tmp_path / "results", "x")
    assert content(tmp_path / "results") == before
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path, monkeypatch):
    folder, real = tmp_path / "model", os.replace
    write_folder(folder, "old")

    def refused(source, target):
        if str(source).endswith(".part"):
            raise PermissionError
        real(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError):
        write_folder(folder, "new")
    assert content(folder) == "old" and list(tmp_path.iterdir()) == [folder]


def test_a_run_record_has_facts_of_the_call_and_of_the_block(tmp_path):
    with run_record(tmp_path / "run.json", recipe="3A") as record:
        record["steps"] = 7
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["recipe"] == "3A" and run["steps"] == 7 and run["seconds"] >= 0 and run["host"]


def test_hidden_files_are_no_outputs(made):
    path, fingerprint = made
    for name in (".gitattributes", ".snakemake_timestamp", ".cache/huggingface/x"):
        hidden = path.parent / "model" / name
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_text("")
    read_manifest(path, fingerprint["hash"])
    assert [p.name for p in visible_files(path.parent / "model")] == ["weights.bin"]


def test_a_manifest_made_from_other_inputs_is_refused(made):
    """For example a base with an equal fingerprint whose weights were replaced."""
    path, fingerprint = made
    late = make_fingerprint("t", "workflow/scripts/recovery.py", {}, (), {str(path): fingerprint})
    below = path.parent / "late.json"
    write_manifest(below, late, [])
    read_manifest(below, late["hash"])
    write_manifest(path, fingerprint, [], mask="other")
    with pytest.raises(StaleInput, match="from another .*manifest.json"):
        read_manifest(below, late["hash"])


def test_json_lines_end_at_newlines_only(tmp_path):
    records = [{"text": "a\u2028b\x85c\rd"}, {"text": "é"}]
    write_json_lines(tmp_path / "r.jsonl", records)
    assert read_json_lines(tmp_path / "r.jsonl") == records
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ValueError, match=r"r.jsonl, line 3"):
        read_json_lines(tmp_path / "r.jsonl")


def test_an_edited_fact_is_refused(made):
    """The result of a leak audit is in no other file, so an edit of it must not reach a table."""
    path, fingerprint = made
    path.write_text(path.read_text().replace('"mask": "c"', '"mask": "d"'))
    with pytest.raises(StaleInput, match="has been edited"):
        read_manifest(path, fingerprint["hash"])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["outputs"].update(file=5),
        lambda m: m["outputs"].update(file={"bytes": 1}),
        lambda m: m["outputs"].update(file={"bytes": -1, "sha256": "0" * 64}),
        lambda m: m["inputs"].update(file=[1]),
        lambda m: m["fingerprint"].pop("stage"),
        lambda m: m["fingerprint"].update(config=[1]),
        lambda m: m["fingerprint"].update(packages=[1]),
        lambda m: m["fingerprint"].update(hash=None),
    ],
)
def test_a_manifest_of_another_form_is_refused_by_its_name(made, change):
    """Whoever can write to a store can write a manifest whose own hash is right."""
    path, _ = made
    manifest = json.loads(path.read_text())
    change(manifest)
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    write_text(path, canonical_json(body | {"sha256": sha256_text(canonical_json(body))}))
    with pytest.raises(StaleInput, match=f"{path} is no manifest"):
        load_manifest(path)


def test_a_manifest_of_lists_in_lists_is_refused_by_its_name(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(StaleInput, match=f"{tmp_path}/manifest.json is no manifest"):
        load_manifest(tmp_path / "manifest.json")


def test_a_base_elsewhere_may_be_absent_but_not_in_part(tmp_path):
    """In a clone that pulled an archive, the folder of a base outside the repository is absent."""
    home, base = tmp_path / "clone/results/study/base", tmp_path / "models/base"
    names = {"../../../../models/base/config.json", "../../../tiny/config.json", "items.json"}
    manifest = {"outputs": dict.fromkeys(names)}
    home.mkdir(parents=True)
    assert outputs_here(home / "manifest.json", manifest) == {
        "../../../tiny/config.json",
        "items.json",
    }
    base.mkdir(parents=True)
    assert outputs_here(home / "manifest.json", manifest) == names


def test_a_checkpoint_may_be_removed_as_a_whole_but_not_in_part(tmp_path):
    home = tmp_path / "results/study/stage3_finetune/3B/seed1"
    checkpoint = {"model/model.safetensors", "model/config.json", "model/templates/tool.jinja"}
    base = {f"../../../../../base/{name}" for name in ("model.safetensors", "config.json")}
    manifest = {"outputs": dict.fromkeys({*checkpoint, *base, "curve.jsonl"})}
    home.mkdir(parents=True)
    # Snakemake makes no base of the repository again, so its other files are missed
    here = {"curve.jsonl", "../../../../../base/config.json"}
    assert outputs_here(home / "manifest.json", manifest) == here
    (home / "model").mkdir()
    here |= {"model/config.json", "model/templates/tool.jinja"}
    assert outputs_here(home / "manifest.json", manifest) == here
