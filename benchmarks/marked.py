"""What the scripts share that write the results of a benchmark into a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def result_and_docs(about: str) -> tuple[dict, Path]:
    """The result that the command line names, and the folder of pages and figures.

    `about` is the docstring of the script.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    return json.loads(args.result.read_text()), args.docs


def write_between(page: Path, first: str, last: str, block: str) -> None:
    """Replace what stands in `page` between the marks `first` and `last`.

    Raises ValueError, and leaves the page as it is, if it has not both of them in this order.
    """
    before, begun, rest = page.read_text("utf-8").partition(first)
    _, ended, after = rest.partition(last)
    if not (begun and ended):
        raise ValueError(f"{page} has no {first.strip()} with a {last.strip()} below it")
    page.write_text(before + first + block + last + after, "utf-8")
