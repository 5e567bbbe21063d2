"""A state in a bucket, as machines move it: what counts there is whole at any moment."""

import json
import os
import subprocess
import sys

import pytest
from snakemake_executor_plugin_vast.machine import bucket

pytest.importorskip("fsspec", reason="it is in the dependency group `test`")


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there"


def write(folder, **parts):
    """Folders of a state: {name: (weights, whether it is whole)}."""
    for name, (weights, whole) in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "weights").write_text(weights)
        if whole:
            (folder / name / "complete").touch()
    return folder


def save(folder, there):
    bucket.save(f"file://{there}", {"copy": str(folder)})


def load(there, folder):
    bucket.load(f"file://{there}", {"state": str(folder)})
    return held(folder)


def held(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_it_comes_back_as_it_went(tmp_path, there):
    state = write(tmp_path / "a", one=("1", True), two=("2", True))
    (state / "note").write_text("beside")
    save(state, there)
    assert load(there, tmp_path / "b") == held(state)


def test_what_the_state_no_longer_has_goes(tmp_path, there):
    save(write(tmp_path / "a", one=("1", True), two=("2", True)), there)
    save(write(tmp_path / "later", two=("2", True), three=("3", True)), there)
    assert {name.partition("/")[0] for name in held(there)} == {"two", "three"}


def test_what_is_whole_there_is_not_sent_again(tmp_path, there):
    state = write(tmp_path / "a", one=("1", True))
    save(state, there)
    before = os.stat(there / "one/weights").st_mtime_ns
    save(state, there)
    assert os.stat(there / "one/weights").st_mtime_ns == before


def test_a_folder_without_its_seal_is_not_brought(tmp_path, there):
    write(there, one=("1", True), two=("half", False))
    assert set(load(there, tmp_path / "b")) == {"one/weights", "one/complete"}


def test_an_interrupted_save_leaves_nothing_half_that_counts(tmp_path, there, monkeypatch):
    """The link breaks after any number of files: each folder that counts is old or new, whole."""
    from fsspec.implementations.local import LocalFileSystem

    put = LocalFileSystem.put_file
    for most in range(4):
        home, left = tmp_path / f"there{most}", [most]
        save(write(tmp_path / "a", one=("old", True)), home)

        def breaks(self, *ends, left=left, **how):
            if not left[0]:
                raise OSError("the link broke")
            left[0] -= 1
            return put(self, *ends, **how)

        new = write(tmp_path / "b", one=("newer", True), two=("2", True))
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, "put_file", breaks)
            with pytest.raises(OSError, match="the link broke"):
                save(new, home)
        brought = load(home, tmp_path / f"back{most}")
        assert brought.get("one/weights", "old") in ("old", "newer")
        assert ("one/complete" in brought) == ("one/weights" in brought)
        save(new, home)
        assert held(home) == held(new)


def test_nothing_is_loaded_from_nothing_and_dropping_it_is_no_error(tmp_path, there):
    assert not load(there, tmp_path / "b")
    bucket.drop(f"file://{there}", {})
    save(write(tmp_path / "a", one=("1", True)), there)
    bucket.drop(f"file://{there}", {})
    assert not held(there)


def test_as_machines_call_it(tmp_path, there):
    state = write(tmp_path / "a", one=("1", True))
    request = {"uri": f"file://{there}", "copy": str(state), "environment": {}}
    command = [sys.executable, bucket.__file__, "save"]
    subprocess.run(command, input=json.dumps(request).encode(), check=True)
    assert held(there) == held(state)


@pytest.mark.parametrize("name", ["../out/x", "../../x", "a/../../x", "/x", "a//x", "./x"])
def test_a_name_in_the_bucket_leads_to_no_file_outside_of_the_state(tmp_path, monkeypatch, name):
    """A key of S3 is any text; on the machine a file of the workflow could be replaced."""
    keys = [name, f"{name.partition('/')[0]}/complete", "one/weights", "one/complete"]

    class Keys:
        def find(self, root, detail):
            return {f"{root}/{key}": {"size": 1} for key in keys}

        def get_file(self, key, path):
            written.append(os.path.normpath(path))

    written = []
    monkeypatch.setattr("fsspec.url_to_fs", lambda uri: (Keys(), "bucket/states"))
    bucket.load("s3://bucket/states", {"state": str(tmp_path / "state")})
    inside = [f"{tmp_path}/state/one/weights", f"{tmp_path}/state/one/complete"]
    assert [path for path in written if not path.endswith("/a/complete")] == inside
