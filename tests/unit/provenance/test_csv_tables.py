"""Promises of the CSV tables: no cell is a formula, and every text is read back as it was."""

import ast
import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.provenance.tables import read_csv, read_table, table_text, write_table
from ablation.report import charts

ROOT = Path(__file__).resolve().parents[3]
FORMULAS = ["=1+1", "+x", '-"\r\n"=', "-x", "@SUM(A1)", "\t=x", "\rx", "-2+3+cmd|' /C calc'!A0"]


def cells(file):
    with open(file, newline="") as opened:
        return [row["text"] for row in csv.DictReader(opened)]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_begins_like_a_formula_gets_an_apostrophe(tmp_path, text):
    write_table(tmp_path / "t.csv", pd.DataFrame({"text": [text], "n": [1]}))
    assert cells(tmp_path / "t.csv") == [f"'{text}"]
    for found in (
        charts.read(tmp_path / "t.csv"),
        read_table(tmp_path / "t.csv", ["text"]),
        read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False),
    ):
        assert list(found.text) == [text]


def test_a_column_of_categories_keeps_its_texts(tmp_path):
    column = pd.Categorical(["=x", "'=x", "b", None])
    write_table(tmp_path / "t.csv", pd.DataFrame({"text": column, "n": 1}))
    assert cells(tmp_path / "t.csv") == ["'=x", "''=x", "b", ""]
    found = read_csv(tmp_path / "t.csv", dtype={"text": "category"})
    assert list(found.text)[:3] == ["=x", "'=x", "b"]


def test_numbers_keep_their_bytes_also_as_texts():
    """published.csv holds numbers of recovery.csv as texts."""
    frame = pd.DataFrame(
        {
            "float": [-0.25, np.nan, 1e-9],
            "whole": pd.array([-1, None, 2], dtype="Int64"),
            "mixed": pd.Series([-1, None, True], dtype=object),
            "text": ["-0.25", "+1e-9", ""],
        }
    )
    assert table_text(frame) == frame.to_csv(index=False)


def test_a_carriage_return_begins_no_row(tmp_path):
    write_table(tmp_path / "t.csv", pd.DataFrame({"text": ["x\r=1+1", "y\r\n=1"], "n": [1, 2]}))
    assert cells(tmp_path / "t.csv") == ["x\r=1+1", "y\r\n=1"]
    assert list(charts.read(tmp_path / "t.csv").text) == ["x\r=1+1", "y\r\n=1"]


texts = st.text(st.sampled_from("'=+-@\t\r\n,\"1a "), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_every_text_is_read_back_as_it_was(tmp_path_factory, written):
    file = tmp_path_factory.mktemp("t") / "t.csv"
    write_table(file, pd.DataFrame({"text": written, "n": 1}))
    found = read_csv(file, dtype=str, keep_default_na=False)
    assert list(found.text) == written


def test_no_other_module_writes_or_reads_tables_as_csv():
    """Another writer would leave formulas, and another reader the apostrophes."""
    found = {
        f"{file.relative_to(ROOT)}: {node.attr}"
        for folder in ("src/ablation", "workflow/scripts")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("read_csv", "to_csv", "writer", "DictWriter")
    }
    module = "src/ablation/provenance/tables.py"
    assert found == {f"{module}: read_csv", f"{module}: to_csv"}
