"""Promise: every command that README and docs show exists, and is run or says what it needs."""

import re

import pytest

from tests.support import documented
from tests.support.documented import Command

PAGES = documented.pages()
COMMANDS = [command for page in PAGES for command in documented.commands(page)]


def test_every_command_exists_with_its_targets_options_and_files():
    found = {f"{c.page}:{c.line} {c.text}": documented.wrong(c) for c in COMMANDS}
    assert len(found) > 70 and {place: what for place, what in found.items() if what} == {}


def test_every_command_in_a_sentence_exists():
    found = {f"{page.name}: {text}": documented.wrong_mention(text)
             for page in PAGES for text in documented.mentions(page)}  # fmt: skip
    assert len(found) > 50 and {place: what for place, what in found.items() if what} == {}


def test_every_mark_is_a_known_need_of_a_command():
    assert set().union(*map(documented.marks, PAGES)) == set(documented.NEEDS)


def test_whoever_needs_a_machine_or_a_network_is_marked():
    """Else `make test-docs` would start it."""
    needing = r"--profile|gpu=|^docker|^apptainer|^conda|ablation pin|pip install|--live\b"
    bare = [c for c in COMMANDS if re.search(needing, c.text) and not c.need]
    assert [c for c in bare if "-n" not in c.words and c.words[:2] != ["ablation", "plan"]] == []


@pytest.mark.parametrize(
    "text, part",
    [
        ("make demos", "no target demos"),
        ("make demo STUDIES=x", "no variable STUDIES"),
        ("ablation tabel", "no command tabel"),
        ("ablation table --rows 3", "--rows"),
        ("ablation trace", "--column"),
        ("snakemake --coars all", "--coars"),
        ("snakemake --logger live results/recovery.csv", "invalid choice"),
        ("snakemake --configfile config/nope.yaml", "config/nope.yaml"),
        ("python tools/nope.py", "tools/nope.py"),
        ('pip install -e ".[nope]"', "nope"),
        ("A=b uv run x", "program uv"),
    ],
)
def test_a_command_that_does_not_exist_is_found(text, part):
    assert part in documented.wrong(Command("page.md", 1, text))


@pytest.mark.parametrize(
    "text", ["make demos", "ablation tabel X", "ablation table --rows", "snakemake --coars"]
)
def test_a_command_in_a_sentence_that_does_not_exist_is_found(text):
    assert documented.wrong_mention(text)


def test_a_page_is_read_line_by_line_with_its_marks(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        'Text\n\n<!-- needs: gpu for "gpu" -->\n\n    snakemake \\\n      gpu  # why\n    make x\n'
        "\n- a list\n\n  ```yaml\n  a: 1\n  ```\n\n```\nmake y\n```\n"
        "<!-- file: a.yaml -->\n```yaml\nb: 2\n```\n"
    )
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    found = [(c.line, c.words, c.need) for c in documented.commands(page)]
    assert found == [
        (5, ["snakemake", "gpu"], "gpu"),
        (7, ["make", "x"], ""),
        (15, ["make", "y"], ""),
    ]
    assert documented.files(page) == {"a.yaml": "b: 2\n"}
    assert documented.marks(page) == {"gpu"}


def test_the_harmless_form_computes_nothing():
    assert Command("", 1, "make demo  # x", "minutes").harmless == "make -n demo  # x"
    assert Command("", 1, "snakemake all", "gpu").harmless == "snakemake -n all"
    assert Command("", 1, "docker run x", "docker").harmless == ""
    assert Command("", 1, "snakemake --executor vast", "vast").harmless == ""
