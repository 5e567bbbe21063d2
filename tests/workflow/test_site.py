"""Promises of the documentation site, built without a warning and opened in a headless browser."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import SERIOUS, Browser, axe, installed

from ablation.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.study, pytest.mark.long, pytest.mark.xdist_group("site")]
WIDTHS = {1400: 900, 400: 860}
LATER = "scrollable-region-focusable"  # The theme lets code be focused when it comes into view.
LOOKED_AT = ("index", "concepts", "tutorial", "stages", "cli", "python", "troubleshooting")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, as `make lint` builds it."""
    pytest.importorskip("mkdocs", reason="pip install --no-deps -r requirements-dev.txt")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """{page: its HTML}, without the page for addresses that do not exist."""
    found = sorted(site.rglob("*.html"))
    return {p: p.read_text("utf-8") for p in found if p.name != "404.html"}


@pytest.fixture
def browser():
    if not installed():
        pytest.skip("no browser to look at the site with: apt-get install chromium")
    with Browser() as opened:
        yield opened


# ---- the pages -----------------------------------------------------------------------------------


def test_every_page_of_docs_is_in_the_site_and_in_its_menu(site):
    menu = re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert len(menu) == len(set(menu))
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in menu and (site / name).with_suffix(".html").is_file()


def test_every_link_and_anchor_leads_somewhere(site, pages):
    """Those of generated pages too, which the build itself does not look at."""
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    count = 0
    for page, text in pages.items():
        for link in re.findall(r'<a [^>]*?href="([^"]*)"', text):
            path, _, anchor = unquote(html.unescape(link)).partition("#")
            if re.match(r"\w+:", path):
                continue
            to = (page.parent / path).resolve() if path else page
            assert to.is_file(), f"{page.relative_to(site)}: {link}"
            assert not anchor or to not in anchors or anchor in anchors[to], f"{page}: {link}"
            count += 1
    assert count > 1000


def test_nothing_comes_from_another_machine(site, pages):
    for page, text in pages.items():
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(\w+:[^"]*)"', text)
        assert [one for one in loaded if not one.startswith("data:")] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\W?https?:|@import", style.read_text("utf-8")), style


def test_lists_and_tables_are_no_paragraphs(pages):
    """Markdown of this site wants a blank line before them, that of other programs does not."""
    for page, text in pages.items():
        if "repository" in page.parts or page.stem in ("changelog",):
            continue
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.S):
            assert not re.search(r"^(- |1\. |\|)", paragraph, re.M), (page, paragraph[:200])


def test_the_command_line_has_every_option_and_example(pages):
    (text,) = (html.unescape(text) for page, text in pages.items() if page.stem == "cli")
    for command in COMMANDS:
        assert f'<h2 id="{command.name}">' in text
        options = [name for parameter in command.params for name in parameter.opts]
        for name in [*(o for o in options if o.startswith("--")), *command.examples]:
            assert name in text, (command.name, name)


def test_the_configuration_and_functions_are_there(pages):
    text = {page.stem: text for page, text in pages.items()}
    assert "finetune.max_steps" in text["configuration"]
    assert 'id="ablation.scoring.masked_lm.MaskedLM"' in text["python"]
    assert "<svg" in text["rulegraph"] and "mermaid" not in text["stages"]


# ---- in a browser --------------------------------------------------------------------------------


def test_every_page_opens_at_two_widths(site, pages, browser):
    """No error, no request, nothing beside the screen, no heading below the menu, every picture."""
    for page in pages:
        browser.open(page)
        for width, height in WIDTHS.items():
            browser.resize(width, height)
            name = (page.relative_to(site), width)
            fits = f"document.documentElement.scrollWidth <= innerWidth  /* {name} */"
            browser.wait(fits, seconds=5)
            top, bar, broken = browser.run(
                "[document.querySelector('h1').getBoundingClientRect().top,"
                "document.querySelector('.md-header').getBoundingClientRect().bottom,"
                "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)]"
            )
            assert top >= bar and broken == [], name
    assert browser.errors == [] and browser.requests == []


def test_axe_finds_nothing_serious_in_light_and_dark_colours(site, browser):
    source = axe()
    browser.resize(1400, 900)
    for page in LOOKED_AT:
        browser.open(site / f"{page}.html")
        browser.run(source)
        for scheme in ("default", "slate"):
            browser.run(f"document.body.setAttribute('data-md-color-scheme', '{scheme}')")
            browser.run("new Promise(done => setTimeout(done, 400))")  # colours change slowly
            serious = [one for one in browser.run(SERIOUS) if one[0] != LATER]
            assert serious == [], (page, scheme)


def test_the_search_works_in_a_file(site, browser):
    browser.open(site / "index.html")
    browser.run(
        "(() => { const field = document.querySelector('.md-search__input'); field.focus();"
        "field.value = 'not_estimable';"
        "field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); })()"
    )
    found = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
    browser.wait(f"{found}.length")
    assert any("statistics.html" in link or "concepts.html" in link for link in browser.run(found))
    assert browser.errors == [] and browser.requests == []
