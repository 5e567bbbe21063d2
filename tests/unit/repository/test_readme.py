"""Promise: README.md is short, its figure shows its table, its numbers are those of the study."""

import re
import sys
from pathlib import Path

import pytest

from tests.support.published import macro_rows

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
import readme_figure  # noqa: E402

README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_is_short_and_begins_with_the_finding():
    assert len(README.splitlines()) < 150
    first = README.split("\n## ")[0]
    assert "**.96**" in first and "**.30**" in first and "**.62**" in first and "![" in first


def test_the_figure_is_that_of_the_table():
    drawn = readme_figure.FIGURE.read_text("utf-8")
    assert drawn == readme_figure.figure(README), "run `python tools/readme_figure.py`"
    assert drawn != readme_figure.figure(README.replace(".96 [", ".95 ["))
    found = readme_figure.table(README)
    assert list(found) == ["3A", "3B", "5C", "3B-leaky"] and found["3A"]["net R"] is None
    assert found["3B-leaky"]["net R"] == (-0.84, -2.10, -0.15)


def test_the_numbers_are_those_of_the_archived_study():
    macro = macro_rows("smollm2")
    for recipe, cells in readme_figure.table(README).items():
        row = macro[recipe, "prefill_bidir"]
        for key, column in (("R", "recovered"), ("net R", "net_recovered")):
            names = (column, f"{column}_low", f"{column}_high")
            if cells[key]:
                assert cells[key] == pytest.approx([float(row[n]) for n in names], abs=0.0051)
        line = re.search(rf"^\| \**{recipe}\b.*$", README, re.M)[0].split("|")
        assert float(line[3]) == pytest.approx(float(row["after"]), abs=0.00051)
        causal = float(macro[recipe, "causal"]["after"])
        assert float(line[6]) == pytest.approx(causal, abs=0.00051)
        assert ("*" in line[4].replace("**", "")) == (row["seeds_disagree"].lower() == "true")
    assert re.findall(r"accuracy of the base as it is, (\.\d+)", README) == [
        "." + _places(row["baseline"])
    ]


def _places(number: str) -> str:
    return f"{float(number):.3f}".partition(".")[2]
