"""Replaces the part of a page that a benchmark writes."""

from __future__ import annotations

from pathlib import Path


def write_between(page: Path, first: str, last: str, block: str) -> None:
    """Replace what stands in `page` between the marks `first` and `last`.

    Raises ValueError, and leaves the page as it is, if it has not both of them in this order.
    """
    before, begun, rest = page.read_text("utf-8").partition(first)
    _, ended, after = rest.partition(last)
    if not (begun and ended):
        raise ValueError(f"{page} has no {first.strip()} with a {last.strip()} below it")
    page.write_text(before + first + block + last + after, "utf-8")
