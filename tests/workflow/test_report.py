"""Promises of the report, looked at in a real headless browser.

`make test-report` looks at results/report.html and wants a browser; otherwise the report of the
micro study is looked at where there is one.
"""

import base64
import os
import re
from pathlib import Path

import pytest
from browser import SERIOUS, Browser, axe, installed

PREBUILT = os.environ.get("ABLATION_REPORT")
pytestmark = [pytest.mark.study, pytest.mark.xdist_group("micro"), pytest.mark.timeout(1800)]

MEGABYTES = 15
PAGES = {"summary", "recovery", "published", "contrasts", "accuracy", "flips", "bag_of_words"}
PAGES |= {"trainings", "samples", "costs", "environment"}
FIGURES = {"recovery", "accuracy", "flips", "curves", "masks"}

OPEN = """(async () => {
  app.setView({content: 'rulegraph', navbarMode: 'menu'});
  const link = () => document.querySelector(`a[data-path="PATH"]`);
  while (!link()) await new Promise(done => setTimeout(done, 20));
  link().click();
})()"""
# The order in which a column stands after each of two clicks on its head, for every column.
SORTED = """[...document.querySelectorAll('table')].flatMap(table => [...table.tHead.rows[0].cells]
  .map((head, place) => [1, 2].map(() => {
    head.firstChild.click();
    const cells = [...table.tBodies[0].rows].map(row => row.cells[place].textContent);
    return [head.className === 'n', head.getAttribute('aria-sort'), cells];
  })))"""


@pytest.fixture(scope="module")
def report(request):
    """The report's file."""
    if not installed():
        wanted = "no browser to look at the report with: apt-get install chromium"
        pytest.fail(wanted) if PREBUILT else pytest.skip(wanted)
    if PREBUILT:
        return Path(PREBUILT)
    return request.getfixturevalue("micro").folder / "results/report.html"


@pytest.fixture(scope="module")
def visited(report):
    """{path: what was seen there} of every page and figure, after a walk through the menus."""
    seen = {}
    with Browser() as browser:
        browser.open(report)
        browser.wait("document.querySelector('#rulegraph canvas, #rulegraph svg')")
        seen["top"] = browser.run(
            "document.querySelector('#app h1.title').getBoundingClientRect().top"
        )
        seen["landing"] = browser.run("document.querySelector('#app').innerText")
        paths = "[...document.querySelectorAll('a[data-path]')].map(link => link.dataset.path)"
        for path in browser.run(paths):
            browser.run(OPEN.replace("PATH", path))
            if path.endswith(".svg"):
                size = browser.wait("document.querySelector('.p-3 > img')?.naturalWidth")
                seen[path] = {"width": size}
            else:
                browser.wait("document.querySelector('iframe:not(.answer)')")
                browser.wait("document.querySelector('table')", frame=True)
                title = browser.run("document.title", frame=True)
                seen[path] = {"title": title, "sorted": browser.run(SORTED, frame=True)}
        for item in ("Statistics", "About", "1 Findings"):
            browser.run("app.setView({content: 'rulegraph', navbarMode: 'menu'})")
            entry = f"[...document.querySelectorAll('nav li a')].find(a => a.innerText == '{item}')"
            browser.wait(entry)
            browser.run(entry + ".click()")
        browser.wait("document.querySelector('nav table')")
        seen["errors"], seen["requests"] = browser.errors, browser.requests
    return seen


BROKEN = """<script>
  console.error("told"); setTimeout(() => { throw new Error("thrown") });
  fetch("http://elsewhere.invalid/data").catch(() => {});
</script>"""


@pytest.mark.parametrize("framed", [False, True])
def test_errors_and_requests_are_noticed(tmp_path, framed):
    """What follows can fail: also inside a frame, as the report's pages are."""
    if not installed():
        pytest.skip("no browser: apt-get install chromium")
    page = tmp_path / "page.html"
    encoded = base64.b64encode(BROKEN.encode()).decode()
    page.write_text(f'<iframe src="data:text/html;base64,{encoded}">' if framed else BROKEN)
    with Browser() as browser:
        browser.open(page)
        while not browser.requests or len(browser.errors) < 2:  # the test's own time-out ends it
            browser.run("new Promise(done => setTimeout(done, 10))")
        assert browser.requests == ["http://elsewhere.invalid/data"]
        assert "told" in str(browser.errors) and "thrown" in str(browser.errors)


def test_the_report_is_one_file_of_bearable_size(report):
    assert report.stat().st_size < MEGABYTES * 1e6


def test_the_report_says_what_is_asked_and_lists_its_pages(visited):
    assert "Which capability is lost at once" in visited["landing"].replace("\n", " ")
    names = {Path(path).stem for path in visited if path.endswith(".html")}
    figures = {Path(path).stem for path in visited if path.endswith(".svg")}
    assert (names, figures) == (PAGES, FIGURES)


def test_the_question_stands_on_the_screen(visited):
    assert 0 <= visited["top"] < 200  # Snakemake's own style would cut it off at the top


def test_on_a_narrow_screen_the_page_has_its_whole_width(report):
    with Browser() as browser:
        browser.resize(400, 860)
        browser.open(report)
        browser.wait("document.querySelector('#rulegraph canvas, #rulegraph svg')")
        title = "document.querySelector('#app h1.title').getBoundingClientRect()"
        assert browser.run(f"{title}.left") < 40
        assert browser.run(f"{title}.width") > 340


def test_the_first_page_answers_on_one_screen_and_axe_finds_nothing_serious(report):
    with Browser() as browser:
        browser.resize(1400, 900)
        browser.open(report)
        browser.wait("document.querySelector('#rulegraph canvas, #rulegraph svg')")
        browser.wait("document.querySelector('table')", frame=True)
        assert "R = " in browser.run("document.querySelector('main').innerText", frame=True)
        box = "document.querySelector('iframe.answer').getBoundingClientRect()"
        end = browser.run("document.querySelector('tr').getBoundingClientRect().bottom", frame=True)
        assert browser.run(f"{box}.top") + end < 900
        image = browser.run("document.querySelector('img').getBoundingClientRect().bottom", True)
        assert browser.run(f"{box}.top") + image < 900
        source = axe()
        for frame in (False, True):
            browser.run(source, frame)
            assert browser.run(SERIOUS, frame) == []
        path = "[...document.querySelectorAll('a[data-path]')].map(link => link.dataset.path)"
        for page in ("report/recovery.html", "report/published.html", "figures/recovery.svg"):
            browser.run("app.setView({content: 'rulegraph', navbarMode: 'menu'})")
            where = next(one for one in browser.run(path) if one.endswith(page))
            browser.run(OPEN.replace("PATH", where))
            if page.endswith(".svg"):
                browser.wait("document.querySelector('.p-3 > img')?.alt")
            else:
                browser.wait("document.querySelector('iframe:not(.answer)')?.title")
                browser.wait("document.querySelector('table')", frame=True)
                assert browser.run("document.documentElement.scrollWidth <= innerWidth", True)
                browser.run(source, True)
                assert browser.run(SERIOUS, True) == []
            assert browser.run(SERIOUS) == []


def test_every_page_opens_and_no_error_is_logged(visited):
    assert visited["errors"] == []
    assert all(seen["title"] for path, seen in visited.items() if path.endswith(".html"))


def test_nothing_is_asked_of_another_machine(visited):
    assert visited["requests"] == []


def test_figures_render(visited):
    widths = [seen["width"] for path, seen in visited.items() if path.endswith(".svg")]
    assert min(widths) > 300


def number(text):
    found = re.match(r"(?:< )?([+-]?[.,]*\d[\d.,]*)", text)
    return float(found[1].replace(",", "")) if found else None


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_column_of_every_table_sorts_both_ways(visited, page):
    columns = next(s["sorted"] for p, s in visited.items() if p.endswith(f"report/{page}.html"))
    assert columns
    for up, down in columns:
        assert (up[1], down[1]) == ("ascending", "descending")
        for is_numeric, _, cells in (up, down):
            assert sorted(cells) == sorted(up[2])  # no row is lost
            if is_numeric:
                values = [number(cell) for cell in cells]
                known = [value for value in values if value is not None]
                assert values[len(known) :] == [None] * (len(values) - len(known)), cells
                assert known == sorted(known, reverse=cells is down[2]), cells
        if not up[0]:
            assert [*reversed(up[2])] == down[2] or len(set(up[2])) < len(up[2])
