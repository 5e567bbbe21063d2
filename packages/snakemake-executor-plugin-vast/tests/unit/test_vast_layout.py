"""Which part of the plugin may import which, and that it needs no other package of ours."""

import ast
import re
from pathlib import Path

import pytest
import snakemake_executor_plugin_vast

ROOT = Path(snakemake_executor_plugin_vast.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# A part imports itself and the parts after it in its row.
MAY_IMPORT = {
    "clock": (),
    "market": ("clock",),
    "machine": (),
    "settings": ("market",),
    "hooks": ("market", "settings"),
    "terminal": (),
    "money": ("market", "hooks", "terminal"),
    "driver": ("clock", "market", "machine", "money", "settings", "terminal"),
    "command": ("clock", "driver", "market", "terminal"),
}


def part_of(file: Path) -> str:
    """The first folder below the package, or the module in it."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(file: Path) -> set[str]:
    """The parts of the plugin that a file imports relatively, lazy imports included."""
    found = set()
    depth = len(file.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
            found |= set(names)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_in_one_direction(file):
    part = part_of(file)
    if part in MAY_IMPORT:
        assert imported_parts(file) <= {part, *MAY_IMPORT[part]}


@pytest.mark.parametrize("part", ["driver", "money", "machine"])
def test_only_the_market_knows_vast(part):
    """Names of the API's fields, its addresses and its module."""
    own = r"market\.vast|market import vast|dph_total|min_bid|num_gpus|gpu_ram|actual_status|/api/v"
    for file in (ROOT / part).rglob("*.py"):
        assert not re.search(own, file.read_text()), file


def test_nothing_names_another_package_of_this_repository():
    for file in FILES:
        assert not re.search(r"\bablation", file.read_text(), re.I), file


def test_files_stay_short():
    for file in FILES:
        assert len(file.read_text().splitlines()) <= 400, file
