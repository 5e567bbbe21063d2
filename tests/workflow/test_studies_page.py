"""Promises of results/studies.html in a real browser: sorted and filtered by mouse and keyboard."""

import pytest
from browser import Browser, installed

from ablation.report.html_tables import Marked, Section, html_page

ROWS = [
    {"study": "b", "leaks": Marked("eval", "bad"), "R": "-0.20 [-0.40, +0.00]"},
    {"study": "a", "leaks": "-", "R": "+0.83 [+0.80, +0.86]"},
    {"study": "c", "leaks": "-", "R": "not estimable"},
]
SHOWN = """[...document.querySelectorAll('tbody tr')].filter(row => !row.hidden)
  .map(row => row.cells[0].textContent)"""
TYPE = """(() => { const field = document.getElementById('filter'); field.focus();
  field.value = 'WORDS'; field.dispatchEvent(new Event('input')); return SHOWN; })()"""


@pytest.mark.skipif(not installed(), reason="no browser: apt-get install chromium")
def test_rows_are_sorted_and_filtered(tmp_path):
    page = tmp_path / "studies.html"
    page.write_text(html_page("Studies", ["note"], [Section("Studies", ROWS)], filtered=True))

    def filtered(browser, words):
        return browser.run(TYPE.replace("WORDS", words).replace("SHOWN", SHOWN))

    with Browser() as browser:
        browser.open(page)
        assert browser.run(SHOWN) == ["b", "a", "c"]
        browser.run("document.querySelectorAll('th button')[2].click()")
        assert browser.run(SHOWN) == ["b", "a", "c"]  # by number; what is none stands last
        browser.run("document.querySelectorAll('th button')[2].click()")
        assert browser.run(SHOWN) == ["a", "b", "c"]
        assert filtered(browser, "EVAL") == ["b"]
        assert filtered(browser, "-eval") == ["a", "c"]
        assert filtered(browser, "-eval 0.83") == ["a"]
        assert browser.run("document.querySelector('output').textContent") == "1 of 3 rows"
        assert filtered(browser, "") == ["a", "b", "c"]
        # everything can be reached by the Tab key: no element takes itself out
        assert browser.run(
            "[...document.querySelectorAll('input, button')].every(e => e.tabIndex === 0)"
        )
        assert browser.errors == [] and browser.requests == []
