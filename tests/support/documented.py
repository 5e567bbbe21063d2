"""The commands that README and docs show, what each of them needs, and whether it can be right.

A code block without a language is one of commands, one a line; any other block names its language.
A comment before a block, which no reader sees, says what its commands need beside a clone, its
packages and two cores, all of them or those that hold a text:

    <!-- needs: minutes -->
    <!-- needs: gpu for "--profile gpu"; network for "pip install" -->

`make test-docs` runs every command without such a mark, and of the others what can run without it
(`Command.harmless`). `<!-- file: PATH -->` names the file that the block below it shows.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {
    "gpu": "a CUDA device",
    "slurm": "a SLURM cluster (make test-slurm starts one)",
    "vast": "a paid account of Vast.ai, or a bucket (make test-faults runs a fake of it)",
    "cloud": "a cluster or a bucket of a cloud (make test-storage runs a storage here)",
    "hub": "a network and, for some models, an accepted licence",
    "network": "a package registry or a price service",
    "own": "files or a study of the reader's own, which the page does not make",
    "change": "a change of code before it (tests/workflow/test_staleness.py makes one)",
    "docker": "Docker (make test-image runs the steps of the Dockerfile)",
    "apptainer": "Apptainer (tests/unit/repository/test_apptainer.py reads the definition)",
    "conda": "conda (tests/unit/repository/test_locked_packages.py reads the environment)",
    "minutes": "more minutes than the other commands together; a test of its own runs it",
    "hours": "hours; make test runs the rule in small",
}
PLAIN = {
    "docker",
    "apptainer",
    "aws",
    "conda",
    "nvidia-cuda-mps-control",
    "tar",
    "export",
    "git",
    "source",
    "cd",
    "echo",
    "cat",
}  # not ours: nothing is read of them
NOT_INSTALLED = {"kubernetes"}  # executors that are not among the packages of the tests


@dataclass(frozen=True)
class Command:
    """One command of a page; `need` is a key of NEEDS, or empty."""

    page: str
    line: int
    text: str
    need: str = ""

    @property
    def words(self) -> list[str]:
        """Its words, without comment and without assignments of variables in front."""
        words = shlex.split(self.text, comments=True)
        while len(words) > 1 and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        return words

    @property
    def harmless(self) -> str:
        """The command in a form that computes nothing; empty if it has none."""
        if self.words[0] == "make":
            return self.text.replace("make ", "make -n ", 1)
        if self.words[0] == "snakemake" and "--executor" not in self.words:
            return self.text.replace("snakemake ", "snakemake -n ", 1)
        return ""


def pages() -> list[Path]:
    """README first, then the pages that a user reads."""
    first = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    return [*first, *(ROOT / f"{f}/README.md" for f in ("config", "results")), *_docs()]


def _docs() -> list[Path]:
    return sorted((ROOT / "docs").rglob("*.md"))


# ---- reading a page ----------------------------------------------------------------------------


def _blocks(page: Path):
    """(token of a code block, text of the comment before it) of a page."""
    before = ""
    for token in MarkdownIt().parse(page.read_text("utf-8")):
        if token.type in ("fence", "code_block"):
            yield token, before
        comment = re.fullmatch(r"<!-- (.*?) -->\s*", token.content, re.S)
        before = comment[1] if token.type == "html_block" and comment else ""


def _clauses(comment: str):
    """(need, text of the commands that have it) for each clause of a comment about needs."""
    mark, _, clauses = comment.partition("needs: ")
    for clause in clauses.split("; ") if clauses and not mark else ():
        need, _, text = clause.partition(" for ")
        yield need, text.strip('"')


def _need(comment: str, command: str) -> str:
    return next((need for need, text in _clauses(comment) if text in command), "")


def commands(page: Path) -> list[Command]:
    """The commands of a page, in their order."""
    name, found = str(page.relative_to(ROOT)), []
    for token, comment in _blocks(page):
        if token.info:
            continue
        text, line = token.content.replace("\\\n", "\0"), token.map[0] + 1
        for row in text.splitlines():
            command = re.sub(r"\0\s*", "", row).strip()
            if command and not command.startswith("#"):
                found.append(Command(name, line, command, _need(comment, command)))
            line += 1 + row.count("\0")
    return found


def files(page: Path) -> dict[str, str]:
    """{path: content} of the files that a page shows."""
    named = ((comment.removeprefix("file: "), token) for token, comment in _blocks(page)
             if comment.startswith("file: "))  # fmt: skip
    return {path: token.content for path, token in named}


def marks(page: Path) -> set[str]:
    """The needs that the comments of a page name, and texts that no command of their block has."""
    found = set()
    for token, comment in _blocks(page):
        for need, text in _clauses(comment):
            found |= {need} if text in token.content else {f"{text} of no command"}
    return found


def mentions(page: Path) -> set[str]:
    """Commands of ours inside of sentences and tables."""
    inline = (t.children or [] for t in MarkdownIt().enable("table").parse(page.read_text("utf-8")))
    texts = {" ".join(c.content.split()) for row in inline for c in row if c.type == "code_inline"}
    return {t for t in texts if re.match(r"(make|ablation|snakemake) [\w.-]", t)}


# ---- whether a command can be right --------------------------------------------------------------


@cache
def _targets() -> tuple[set[str], set[str]]:
    text = (ROOT / "Makefile").read_text("utf-8")
    variables = set(re.findall(r"^(\w+) *[?:]?=|\$\(or \$\((\w+)\)", text, re.M))
    targets = set(re.findall(r"^([\w./-]+):", text.replace("$(VENV)", ".venv"), re.M))
    return targets, {name for pair in variables for name in pair if name} | {"CLEAN"}


@cache
def _shown() -> set[str]:
    return {path for page in pages() for path in files(page)}


@cache
def _snakemake():
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


def _wrong_make(words: list[str]) -> str:
    targets, variables = _targets()
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in (variables if equals else targets):
            return f"the Makefile has no {'variable' if equals else 'target'} {name}"
    return ""


def _wrong_ablation(words: list[str]) -> str:
    from ablation.cli.main import ablation

    command = ablation.commands.get(words[0])
    if command is None:
        return f"ablation has no command {words[0]}"
    try:
        command.make_context(words[0], list(words[1:]))
    except click.ClickException as error:
        return error.format_message()
    return ""


def _wrong_snakemake(words: list[str]) -> str:
    said, words = io.StringIO(), ["local" if word in NOT_INSTALLED else word for word in words]
    try:
        with contextlib.redirect_stderr(said):
            _snakemake().parse_args(words)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    return ""


def _wrong_python(words: list[str]) -> str:
    file = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
    return "" if (ROOT / file).is_file() else f"there is no {file}"


def _wrong_pip(words: list[str]) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = set(re.findall(r"\.\[(\w+)\]", " ".join(words)))
    missing = extras - set(project["optional-dependencies"])
    return f"pyproject.toml has no extra {missing}" if missing else ""


READ = {"make": _wrong_make, "ablation": _wrong_ablation, "snakemake": _wrong_snakemake}
READ |= {"python": _wrong_python, "pip": _wrong_pip}


def wrong(command: Command) -> str:
    """What is wrong with a command, found without running it; empty if nothing is."""
    program, *words = command.words
    lost = {w for w in words if re.fullmatch(r"config/[\w/.-]+\.yaml", w)
            and not (ROOT / w).is_file() and w not in _shown()}  # fmt: skip
    if lost:
        return f"there is no {', '.join(lost)}, and no page shows it"
    if program in PLAIN:
        return ""
    return READ[program](words) if program in READ else f"the program {program} is unknown"


def wrong_mention(text: str) -> str:
    """The same of a command inside of a sentence, whose arguments may be left out or schematic."""
    program, name, *rest = text.split()
    options = {w.partition("=")[0] for w in [name, *rest] if re.match(r"--\w", w)}
    if program == "make":
        return _wrong_make([name]) if "=" not in name and name[0] != "-" else ""
    if program == "snakemake":
        known = set(_snakemake()._option_string_actions)
    else:
        from ablation.cli.main import ablation

        if name.isupper() or name[0] == "-":
            return ""
        if name not in ablation.commands:
            return f"ablation has no command {name}"
        known = {o for p in ablation.commands[name].params for o in p.opts + p.secondary_opts}
        known |= {"--help"}
    return f"{program} has no option {options - known}" if options - known else ""
