"""What the commands share: their class, types of arguments, messages on errors, output as JSON.

Commands import the modules that do their work inside their functions, so that `ablation --help` is
fast and does not import torch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ablation.console.printable import printable, printable_json

# ---- errors ---------------------------------------------------------------------------------


class CommandFailed(Exception):
    """A command has printed why it failed and ends with the exit status `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def report_errors(*expected: type[Exception], status: int = 1) -> Iterator[None]:
    """Print an expected error as a message without a traceback, and raise CommandFailed."""
    try:
        yield
    except expected as error:
        print(printable(error), file=sys.stderr)
        raise CommandFailed(status) from None


# ---- commands -------------------------------------------------------------------------------


class Several(click.Option):
    """An option that takes all words up to the next option: `--mask causal prefill_bidir`."""

    def __init__(self, names: Sequence[str], **settings: Any) -> None:
        super().__init__(names, multiple=True, **settings)

    def make_metavar(self, ctx: click.Context) -> str:
        """The name of the values in help texts."""
        return f"{super().make_metavar(ctx)}..."


class Command(click.Command):
    """A command whose help ends with examples, and whose options may take several words."""

    def __init__(self, name: str | None, *, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(name, **settings)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one a line, and the epilog."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"  {example}\n")  # never wrapped, as it may be copied
        super().format_epilog(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, after click's form `--mask A --mask B` has replaced `--mask A B`."""
        return super().parse_args(ctx, self._one_value_an_option(args))

    def _one_value_an_option(self, words: Sequence[str]) -> list[str]:
        several = {name for p in self.params if isinstance(p, Several) for name in p.opts}
        found: list[str] = []
        option, values = "", 0
        for place, word in enumerate(words):
            if word == "--":
                return [*found, *words[place:]]
            if len(word) > 1 and word.startswith("-"):
                option, values = word if word in several else "", 0
            elif option:
                found += [option] if values else []
                values += 1
            found.append(word)
        return found


# ---- types of arguments ---------------------------------------------------------------------

PATH = click.Path(path_type=Path)


class _FileToWrite(click.Path):
    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if Path(value).is_dir():
            self.fail(f"{value} is a folder; a file was expected", param, ctx)
        return super().convert(value, param, ctx)


# A file to write; a folder is refused before any work.
FILE_TO_WRITE = _FileToWrite(path_type=Path)


def number(minimum: float, *, exclusive: bool = False) -> Callable[[str], float]:
    """The type of an argument that is a finite number of at least `minimum`, or above it."""

    def number(text: str) -> float:  # click prints this name in help texts
        bound = "above" if exclusive else "of at least"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (minimum < value < math.inf or (value == minimum and not exclusive)):
            raise click.BadParameter(f"{text}: a number {bound} {minimum:g} was expected")
        return value

    return number


def column_and_value(text: str) -> tuple[str, str]:
    """The type of an argument of the form COLUMN=VALUE."""
    column, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r}: COLUMN=VALUE was expected")
    return column, value


# ---- forms of tables ------------------------------------------------------------------------

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(("text", "markdown", "latex", "csv")),
    default="text",
    help="How the table is printed: for a terminal, a page, a paper (with the package "
    "booktabs), or the rows with all their digits (default: text).",
)

# ---- output as JSON -------------------------------------------------------------------------

json_option = click.option(
    "--json",
    type=FILE_TO_WRITE,
    metavar="FILE",
    help="Write everything into this file as JSON; `-` prints the JSON and nothing else.",
)


def show_or_save(found: dict, file: Path | None, show: Callable[[dict], object]) -> None:
    """Show `found` by `show` and write it into `file`; print JSON alone where `file` is `-`."""
    from ablation.provenance.files import write_json

    if str(file) == "-":
        print(printable_json(found, indent=2))
        return
    if file:
        write_json(file, found)
    show(found)
