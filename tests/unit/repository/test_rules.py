"""Promises of the rule files: they hold rules, in one style, and hardly anything else."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = [ROOT / "Snakefile", ROOT / "workflow/Snakefile", *sorted(ROOT.glob("rules/*.smk"))]
MOST_LINES = 64  # outside rules, in all files together

RULE = re.compile(r"(?P<indent> *)(?:use )?rule\b.*:$")
DIRECTIVE = re.compile(r"(?P<indent> +)(?P<name>[a-z_]+):(?P<value>.*)$")
ORDER = [
    "name",
    "default_target",
    "input",
    "output",
    "log",
    "benchmark",
    "wildcard_constraints",
    "localrule",
    "conda",
    "priority",
    "threads",
    "resources",
    "params",
    "message",
    "script",
    "shell",
]


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def split_file(file: Path) -> tuple[list[str], list[list[str]]]:
    """(code lines outside rules, the lines of each rule), without blank lines and comments."""
    outside: list[str] = []
    rules: list[list[str]] = []
    inside = None  # the indentation of the rule that a line belongs to
    for line in file.read_text("utf-8").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if inside is not None and indent_of(line) > inside:
            rules[-1].append(line)
        elif RULE.match(line):
            inside = indent_of(line)
            rules.append([line])
        else:
            inside = None
            outside.append(line)
    return outside, rules


def directives_of(rule: list[str]) -> list[str]:
    """The names of a rule's directives, in their order."""
    body = indent_of(rule[0]) + 4
    matches = [DIRECTIVE.match(line) for line in rule[1:] if indent_of(line) == body]
    return [match["name"] for match in matches if match]


RULES = [
    pytest.param(rule, id=f"{f.name}: {rule[0].strip()}")
    for f in FILES
    for rule in split_file(f)[1]
]


def test_few_lines_are_outside_rules():
    lines = [line for file in FILES for line in split_file(file)[0]]
    assert len(lines) <= MOST_LINES, "\n".join(lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_rule_file_defines_no_function(file):
    text = file.read_text("utf-8")
    assert not re.search(r"^\s*(async def|def|class) ", text, re.MULTILINE)
    for line in text.splitlines():
        # A lambda that is longer than its line leaves a bracket open, or nothing after its colon.
        for body in re.findall(r"lambda\b[^:]*:(.*)", line):
            assert body.strip().rstrip(","), line
            depth = [body[: i + 1].count("(") - body[: i + 1].count(")") for i in range(len(body))]
            brackets = body.count("[") - body.count("]") + body.count("{") - body.count("}")
            assert depth[-1] <= 0 and brackets <= 0, line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_rule_file_opens_with_a_contract(file):
    assert file.read_text("utf-8").startswith("# ")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_its_directives_in_one_order(rule):
    found = directives_of(rule)
    assert set(found) <= set(ORDER)
    assert all(ORDER.index(a) < ORDER.index(b) for a, b in pairwise(found)), found


@pytest.mark.parametrize("rule", [rule for rule in RULES if "use rule" not in rule.id])
def test_a_rule_has_a_docstring_of_one_line(rule):
    docstrings = [line.strip() for line in rule if line.strip().startswith('"""')]
    assert len(docstrings) == 1 and re.fullmatch(r'"""[A-Z0-9].*\."""', docstrings[0]), docstrings


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_runs_a_script_has_a_log_and_a_message(rule):
    found = directives_of(rule)
    if "script" in found or "shell" in found:
        assert {"log", "message", "conda"} <= set(found)
