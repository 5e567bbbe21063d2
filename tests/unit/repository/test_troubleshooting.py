"""Promise: each message that docs/troubleshooting.md quotes still stands in the source."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/troubleshooting.md"
HEADINGS = re.findall(r"^### `+ ?(.+?) ?`+$", PAGE.read_text("utf-8"), re.M)
GAP = "…"


@cache
def messages():
    """Every text of the source with its formatted values as gaps, one a line."""
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("packages/*/src/**/*.py")]
    return "\n".join(
        " ".join(text(node).split())
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if text(node)
    )


def text(node):
    """A text or f-string; parts that are joined by + are read apart."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            text(part) if isinstance(part, ast.Constant) else GAP for part in node.values
        )
    return ""


def quoted(message):
    """The pattern of a message: each gap of the page is a formatted value or more."""
    pieces = [re.escape(piece) for piece in message.strip(f"{GAP} ").split(GAP)]
    return re.compile(".*?".join(pieces))


@pytest.mark.parametrize("message", HEADINGS)
def test_the_message_stands_in_the_source(message):
    assert quoted(message).search(messages()), f"no message reads: {message}"


def test_every_message_is_quoted_once_and_explained():
    assert len(HEADINGS) > 50 and len(set(HEADINGS)) == len(HEADINGS)
    text = PAGE.read_text("utf-8")
    assert text.count("\n### ") == len(HEADINGS)
    explained = re.findall(r"^###? .*\n\n(?:### .*\n\n)*[A-Z`]", text, re.M)  # or headings in a row
    assert len(explained) > 0.9 * len(HEADINGS)


def test_a_message_that_is_gone_is_noticed():
    assert not quoted("the configuration cannot be liked").search(messages())
    assert quoted("… budget of $…: $… spent").search(messages())
