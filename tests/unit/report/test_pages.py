"""Promises of the report's pages: every row is there, nothing is made up, all text is escaped."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.analysis.recovery_columns import COLUMNS
from ablation.provenance.tables import marked, unchecked_in
from ablation.report import charts, pages, run_pages
from ablation.report.html_tables import Marked, Section, html_page, with_marks

LEAVES_THE_FILE = re.compile(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[^"'\s>]""")


class Tables(HTMLParser):
    """The texts of a page's cells: a list of rows a table."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.cell = [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None

    def handle_data(self, text):
        if self.cell is not None:
            self.cell += text


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80)


@settings(max_examples=50, deadline=None)
@given(texts, st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_any_text_is_shown_as_it_is(title, cells):
    rows = [{"one": a, "two": Marked(b, "bad")} for a, b in cells]
    page = html_page(title, [title], [Section(title, rows)])
    assert Tables(page).tables == [[["one", "two"], *(list(pair) for pair in cells)]]
    assert not LEAVES_THE_FILE.search(page.split("<body>")[0])


def test_a_page_asks_nobody_for_anything():
    page = html_page("t", [], [Section("s", [{"a": "1"}])])
    assert not LEAVES_THE_FILE.search(page) and "http" not in page


def test_a_section_without_rows_says_so():
    assert "No rows." in html_page("t", [], [Section("s", [])])


@pytest.mark.parametrize(
    ("p", "mark"),
    [(0.0009, "***"), (0.001, "**"), (0.0099, "**"), (0.04, "*"), (0.05, ""), (float("nan"), "")],
)
def test_stars_say_what_the_legend_says(p, mark):
    assert pages.stars(p) == mark


def row(**known):
    row = dict.fromkeys(COLUMNS) | {"study": "s", "recipe": "3B", "task": "macro", "n": 10}
    row |= {"train_leaks": False, "eval_leaks": False, "comparable": "true", "baseline": 0.9}
    row |= {"seeds_disagree": False}
    return row | {"seed": "all", "after": 0.8, "retention": 0.89} | known


def recovery_table():
    lost = {"ablated": 0.5, "damage": -0.4, "damage_low": -0.5, "damage_high": -0.3, "gain": 0.3}
    lost |= {"damage_p": 1e-9, "gain_low": 0.2, "gain_high": 0.4, "gain_p": 0.02}
    lost |= {"recovered": 0.75, "recovered_low": 0.6, "recovered_high": 0.9}
    lost |= {"recovered_status": "estimable", "criteria_met": True}
    side = {"side_effect": -0.1, "side_effect_low": -0.2, "side_effect_high": 0.0}
    return pd.DataFrame(
        [
            row(mask="causal", side_effect_p=0.6, **side),
            row(mask="full_bidir", eval_leaks=True, **lost),
            row(mask="prefill_bidir", **lost),
        ]
    )


def test_the_recovery_page_shows_intervals_marks_and_leaks_the_faithful_mask_first():
    lost, back, side, *_ = Tables(pages.recovery(recovery_table())).tables
    assert [r[0] for r in lost[1:]] == ["prefill_bidir", "full_bidir"]
    named = [dict(zip(back[0], cells, strict=True)) for cells in back[1:]]
    assert [r["leaks"] for r in named] == ["-", "eval"]
    assert {r["p"] for r in named} == {".020 *"}
    assert {r["recovered"] for r in named} == {"+0.75 [+0.60, +0.90]"}
    assert dict(zip(side[0], side[1], strict=True))["p"] == ".600"


def test_rows_whose_seeds_disagree_are_red_and_rows_of_one_seed_have_no_mark():
    table = recovery_table()
    table.loc[2, "seeds_disagree"] = True
    one = table.assign(seed="9", seeds_disagree=None)
    page = pages.recovery(pd.concat([table, one]))
    assert page.count('<td class="bad">disagree</td>') == 1
    found = [dict(zip(t[0], row, strict=True)) for t in Tables(page).tables for row in t[1:]]
    assert {row["seeds"] for row in found if "seeds" in row} == {"-", "disagree"}
    assert not [row for row in found if {"seed", "seeds"} <= set(row)]
    pair = {"against": "3A", "after_against": 0.4}
    pair |= dict.fromkeys([f"recovered_difference{end}" for end in ("", "_low", "_high")], 0.1)
    contrast = pd.DataFrame([row(mask="prefill_bidir", seeds_disagree=True, **pair)])
    assert '<td class="bad">disagree</td>' in pages.contrasts(contrast)


def test_a_page_and_a_figure_of_unchecked_code_say_so():
    table = marked(recovery_table(), ["stage3_finetune", "stage5_longrun"])
    told = with_marks(pages.recovery(table), unchecked_in(table, recovery_table()))
    assert told.count('<p class="bad">unchecked: today&#x27;s code of stage') == 2
    plain = pages.recovery(recovery_table())
    assert with_marks(plain, unchecked_in(recovery_table())) == plain == pages.recovery(table)
    drawn = charts.sheet(charts.alt.Chart(table).mark_point(), table, "t", ["a note"])
    assert "unchecked: stage5_longrun" in str(drawn.to_dict()["title"]["subtitle"])


def test_what_cannot_be_compared_is_said():
    table = recovery_table()
    table.loc[1, "comparable"] = "false: another gpu"
    assert "NOT COMPARABLE" in pages.recovery(table)
    assert "NOT COMPARABLE" not in pages.recovery(recovery_table())


def test_no_page_of_numbers_hides_a_leak():
    row = {
        "study": "s",
        "recipe": "3B-leaky",
        "seed": "1",
        "mask": "full_bidir",
        "task": "a",
        "n": 4,
    }
    row |= {"train_leaks": True, "eval_leaks": True, "pattern": "RWR", "items": 4, "against": "3B"}
    row |= {"after": 0.5, "after_against": 0.4, "seeds_disagree": None}
    row |= dict.fromkeys([f"recovered_difference{end}" for end in ("", "_low", "_high")], 0.1)
    whole = pd.DataFrame([row, row | {"task": "macro", "seed": "all"}])
    for page in (pages.contrasts(whole), pages.flips(whole)):
        found = [t for t in Tables(page).tables if t]
        assert found and all("train eval" in row for t in found for row in t[1:])


def test_samples_stand_side_by_side():
    texts = pd.DataFrame(
        [
            ("Who?\nAnswer:", "Tom", "base", None, "causal", " Tom <b>"),
            ("Who?\nAnswer:", "Tom", "base", None, "prefill_bidir", " Eve"),
            ("Who?\nAnswer:", "Tom", "3B", 7.0, "causal", None),
            ("Who?\nAnswer:", "Tom", "3B", 7.0, "prefill_bidir", " Tom"),
        ],
        columns=["prompt", "answer", "model", "seed", "mask", "text"],
    )
    page = pages.samples(texts)
    (table,) = Tables(page).tables
    assert table[1:] == [["base", "Tom <b>", "Eve"], ["3B seed 7", "", "Tom"]]
    assert page.count('class="good"') == 2


# ---- what the study took -----------------------------------------------------------------------


def job(stage, attempt=None, attempts=(), **run):
    run = {"seconds": 10.0, "host": "h", "processor": "p", "started": "2026-01-01T00:00:00+00:00"}
    return {
        "stage": stage,
        "recipe": None,
        "seed": None,
        "mask": None,
        "run": run | {"attempt": attempt},
        "attempts": list(attempts),
    }


def test_money_counts_an_attempt_once_and_failed_ones_too():
    tries = [
        {"attempt": "a1", "job": "j", "why": "gone", "seconds": 5, "dollars": 1.0},
        {"attempt": "a2", "job": "j", "why": "done", "seconds": 5, "dollars": 2.0},
    ]
    scored = [job("stage4_posteval", "a2", tries) for _ in range(3)]  # one job, three masks
    first, _ = Tables(run_pages.costs([*scored, job("recovery")])).tables
    rows = {cells[0]: dict(zip(first[0], cells, strict=True)) for cells in first[1:]}
    assert rows["stage4_posteval"]["dollars"] == rows["all"]["dollars"] == "3.00"
    assert rows["all"]["failed"] == "1" and rows["all"]["seconds"] == "40.0"
    assert rows["recovery"]["dollars"] == rows["recovery"]["joules"] == "-"


def test_two_versions_of_a_package_are_shown_as_such():
    def manifest(torch):
        fingerprint = {
            "stage": "s",
            "hash": "h" * 64,
            "code": "c" * 64,
            "packages": {"torch": torch},
        }
        return {"fingerprint": fingerprint, "outputs": {"f": {"bytes": 3}}, "sha256": "m" * 64}

    page = run_pages.environment(
        {"a": manifest("2.13.0"), "b": manifest("2.12.0")}, [job("s")["run"]]
    )
    assert '<td class="bad">2.12.0, 2.13.0</td>' in page and "m" * 64 in page
