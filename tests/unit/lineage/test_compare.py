"""Promises of the comparison behind `reproduce`: identical, or how far apart, and where."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.cli.main import main
from ablation.lineage.compare import compare, distance


@pytest.fixture
def pair(tmp_path):
    """Two files of the same name, written by a function of each value."""

    def write(name, one, other, how):
        for folder, value in (("old", one), ("new", other)):
            (tmp_path / folder).mkdir(exist_ok=True)
            how(tmp_path / folder / name, value)
        return tmp_path / "old" / name, tmp_path / "new" / name

    return write


def as_json(path, value):
    path.write_text(json.dumps(value))


def as_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_csv(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)


def as_parquet(path, rows):
    pd.DataFrame(rows).to_parquet(path, index=False)


def as_tensors(path, rows):
    from safetensors.numpy import save_file

    save_file({"w": np.array([row["x"] for row in rows], dtype=np.float32)}, path)


FORMS = {
    "a.json": (as_json, "[1].x"),
    "a.jsonl": (as_lines, "line [1].x"),
    "a.csv": (as_csv, "row 3, x"),
    "a.parquet": (as_parquet, "row 1, x"),
    "a.safetensors": (as_tensors, "w"),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_largest_difference_and_its_place(pair, name):
    how, place = FORMS[name]
    rows = [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}]
    old, new = pair(name, rows, [{"x": 1.125}, {"x": 2.5}, {"x": 3.0}], how)
    found = compare(old, new, 0.25)
    assert (found.outcome, found.largest) == ("different", 0.5)
    assert found.where.startswith(place)
    assert "2.0 before, 2.5 now" in found.where.replace("'", "")
    assert compare(old, new, 0.5).outcome == "within tolerance"
    assert compare(old, old, 0.0).outcome == "identical"


@pytest.mark.parametrize("name", FORMS)
def test_more_rows_are_different_whatever_the_tolerance(pair, name):
    how, _ = FORMS[name]
    rows = [{"x": 1.0}, {"x": 2.0}]
    assert compare(*pair(name, rows, rows[:1], how), 0.5).outcome == "different"


def test_words_that_differ_are_no_tolerance(pair):
    files = pair("a.csv", [{"status": "estimable"}], [{"status": "not_estimable"}], as_csv)
    assert compare(*files, 1e9).outcome == "different"


def test_a_truth_value_is_no_number(pair):
    assert compare(*pair("a.json", {"leaks": True}, {"leaks": 1.5}, as_json), 9).largest == math.inf


def test_bytes_of_no_table_are_different_and_a_missing_file_too(pair, tmp_path):
    old, new = pair("a.svg", "<svg/>", "<svg />", lambda path, text: path.write_text(text))
    assert compare(old, new, 1.0).outcome == "different"
    assert compare(old, tmp_path / "absent.svg", 1.0).outcome == "different"


def test_the_same_values_written_otherwise_are_within_tolerance(pair):
    how = lambda path, text: path.write_text(text)  # noqa: E731
    assert compare(*pair("a.json", '{"a":1}', '{"a": 1}', how), 0.0).outcome == "within tolerance"


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False))
def test_distance_is_symmetric_and_zero_only_between_equals(a, b):
    assert distance(a, b) == distance(b, a) >= 0
    assert (distance(a, b) == 0) == (a == b or abs(a - b) == 0)
    assert distance(math.nan, math.nan) == 0 and distance(a, math.nan) == math.inf


def test_a_number_that_is_none_on_both_sides_hides_no_other(tmp_path):
    from safetensors.numpy import save_file

    for name, last in (("a", 1.0), ("b", 3.0)):
        save_file({"w": np.array([np.nan, last, 0.0])}, tmp_path / f"{name}.safetensors")
    found = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors", 1e-3)
    assert (found.outcome, found.largest) == ("different", 2.0)


@pytest.mark.parametrize("tolerance", ["-1", "nan"])
def test_a_tolerance_is_no_less_than_nothing(tolerance, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["reproduce", "recovery", "--tolerance", tolerance])
    assert "a number of at least 0 was expected" in capsys.readouterr().err


def test_a_command_that_is_interrupted_says_so_in_a_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ablation.lineage.reproduce.reproduce", interrupted)
    assert main(["reproduce", "recovery"]) == 130
    assert capsys.readouterr().err == "stopped\n"
