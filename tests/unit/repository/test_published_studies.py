"""Promise: the tables of published studies are those of the archives beside them."""

import csv
import re

import pytest

from ablation.data.needles import tokens_and_position
from tests.support.published import STUDIES, archived_rows, macro_rows, pooled_rows

PAGE = (STUDIES / "smollm2.md").read_text("utf-8")
LONG_PROMPTS = (STUDIES.parent / "long_prompts.md").read_text("utf-8")
NUMBER = re.compile(r"-?\d*\.\d+")


def table(heading, page=PAGE):
    """The cells of the first table after a heading, by row."""
    lines = page.split(f"\n## {heading}\n")[1].splitlines()
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


def test_another_version_of_torch():
    with (STUDIES / "smollm2_torch213.csv").open(encoding="utf-8", newline="") as file:
        later = list(csv.DictReader(file))
    published = archived_rows("smollm2", "recovery")
    assert len(published) == 720
    before_training = ("recipe", "seed", "mask", "task", "baseline", "ablated", "damage")
    for row, other in zip(published, later, strict=True):
        assert all(row[column] == other[column] for column in before_training)

    runs = [pooled_rows(published), pooled_rows(later)]
    for recipe, *cells in table("With another version of torch"):
        rows = [run[recipe.partition(",")[0], "prefill_bidir"] for run in runs]
        for row, after, share, net in zip(rows, cells[:2], cells[2:4], cells[4:], strict=True):
            assert same(after, [float(row["after"])])
            assert same(share, interval(row, "recovered"))
            assert share.endswith("*") is (row["seeds_disagree"] == "True")
            assert same(net, interval(row, "net_recovered"))

    pairs = list(zip(published, later, strict=True))
    verdicts = [pair for pair in pairs if pair[0]["criteria_met"]]
    turned = [a for a, b in verdicts if a["criteria_met"] != b["criteria_met"]]
    of_one = [row for row in turned if row["seed"] != "all" or "macro" not in row["task"]]
    shares = [pair for pair in pairs if "macro" in pair[0]["task"] and pair[0]["recovered_low"]]
    ends = [(*interval(a, "recovered")[1:], float(b["recovered"])) for a, b in shares]
    within = [found for low, high, found in ends if low <= found <= high]
    text = " ".join(PAGE.split())
    assert f"Of {len(verdicts)} such verdicts {len(turned)} differ, {len(of_one)} of them" in text
    assert f"{len(within)} of {len(shares)} shares recovered are within" in text


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


def test_retrieval_by_length():
    shares = {}
    for row in archived_rows("smollm2_needle", "per_task"):
        if place := tokens_and_position(row["task"]):
            cell = (row["recipe"] or "base", row["mask"], place[0])
            shares.setdefault(cell, []).append(float(row["accuracy"]))
    rows = table("What masks do to retrieval: SmolLM2-135M", LONG_PROMPTS)
    for model, mask, *cells in rows:
        found = [shares[model, mask.strip("`"), tokens] for tokens in (1200, 2048, 4096)]
        assert {len(each) for each in found} == {3}  # positions
        means = [sum(each) / 3 for each in found]
        for cell, mean in zip(cells, [*means, sum(means) / 3], strict=True):
            assert same(cell, [mean])
    assert len(rows) == 7
    row = macro_rows("smollm2_needle")["3B", "prefill_bidir"]
    text = " ".join(LONG_PROMPTS.split())
    for words, column in (("here it is", "net_recovered"), ("mislead.** R(3B) is", "recovered")):
        (said,) = re.findall(re.escape(words) + r" ([^]]+)]", text)
        assert same(said, interval(row, column))
