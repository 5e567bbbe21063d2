"""Promise: the tables of docs/studies/smollm2.md are those of the archives beside it."""

import re

import pytest

from tests.support.published import STUDIES, macro_rows

PAGE = (STUDIES / "smollm2.md").read_text("utf-8")
NUMBER = re.compile(r"-?\d*\.\d+")


def table(heading):
    """The cells of the first table after a heading, by row."""
    lines = PAGE.split(f"\n## {heading}\n")[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|---")) + 1
    end = next(n for n, line in enumerate(lines) if n > start and not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


def interval(row, column):
    ends = [row[column], row[f"{column}_low"], row[f"{column}_high"]]
    return [float(x) for x in ends if x]


def same(cell, expected):
    found = [float(x) for x in NUMBER.findall(cell)]
    digits = max((len(x.partition(".")[2]) for x in NUMBER.findall(cell)), default=0)
    return found == pytest.approx(expected, abs=0.51 * 10**-digits)


def test_what_the_masks_cost():
    rows = macro_rows("smollm2")
    for mask, _, whole, damaged, damage in table("What the mask costs"):
        row = rows["3B", mask.strip("`")]
        assert same(whole, [float(row["baseline"])]) and same(damaged, [float(row["ablated"])])
        assert same(damage, interval(row, "damage"))


def test_what_comes_back():
    rows, named = macro_rows("smollm2"), set()
    for recipe, after, share, net, causal in table("What comes back"):
        name = re.match(r"\**([\w-]+)", recipe)[1]
        row = rows[name, "prefill_bidir"]
        named.add(name)
        assert same(after, [float(row["after"])])
        assert same(share, interval(row, "recovered")), name
        assert same(net, interval(row, "net_recovered")), name
        assert same(causal, [float(rows[name, "causal"]["after"])])
    assert named == {"3A", "3B", "3A-long", "5C", "3B-leaky"}


def test_six_other_things_taken_away():
    rows, named = macro_rows("smollm2_interventions"), set()
    for what, damaged, damage, control, after, share, net in table("Six other things taken away"):
        name = re.match(r"`(\w+)`", what)[1]
        named.add(name)
        row = rows[f"3B-{name}", name]
        assert same(damaged, [float(row["ablated"])]) and same(after, [float(row["after"])])
        assert same(damage, interval(row, "damage"))
        assert same(control, [float(row["control_ablated"])])
        for cell, column in ((share, "recovered"), (net, "net_recovered")):
            assert same(cell, interval(row, column)), name
            assert (cell == "not estimable") is (row[f"{column}_status"] == "not_estimable")
    assert named == {"prune", "round", "thin", "positions", "window", "heads"}
