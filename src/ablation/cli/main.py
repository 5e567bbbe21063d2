"""Reads the command line of `ablation` and runs the command that it names."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from ablation.cli import (
    accept,
    check,
    compare,
    deposit,
    diff,
    dose,
    export,
    init,
    list_studies,
    needle,
    pin,
    plan,
    publish,
    pull,
    push,
    reap,
    reproduce,
    sample,
    seal,
    table,
    trace,
    verify,
    worlds,
)
from ablation.cli.options import Command, CommandFailed

# In the order in which `ablation --help` lists them.
COMMANDS: tuple[Command, ...] = (
    *(
        init.init,
        plan.plan,
        check.check,
        table.table,
        sample.sample,
        needle.needle,
        accept.accept,
        pin.pin,
        reap.reap,
    ),
    *(trace.trace, diff.diff, reproduce.reproduce, verify.verify, seal.seal, push.push, pull.pull),
    *(publish.publish, deposit.deposit),
    *(worlds.worlds, dose.dose, compare.compare, export.export, list_studies.studies),
)
INTERRUPTED = 130  # the exit status that shells give for Ctrl-C
BROKEN_PIPE = 141  # that for a program whose reader has ended
COMPLETE = "_ABLATION_COMPLETE"  # a shell sets it when it asks for completions


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  ablation plan --profile vast
  ablation table
  ablation COMMAND --help

\b
Completion of commands, options and studies by the shell:
  eval "$(_ABLATION_COMPLETE=bash_source ablation)"    in ~/.bashrc
  eval "$(_ABLATION_COMPLETE=zsh_source ablation)"     in ~/.zshrc""",
)
@click.version_option(
    None,
    package_name="ablation-studies",
    message="%(prog)s %(version)s",
    help="Print the version and exit.",
)
def ablation() -> None:
    """Plan a study before it runs; read, verify, compare and move its results."""


for _command in COMMANDS:
    ablation.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names.

    Returns the exit status. Raises SystemExit for arguments that cannot be read.
    """
    if instruction := os.environ.get(COMPLETE):
        return shell_complete(ablation, {}, "ablation", COMPLETE, instruction)
    try:
        # click's own `main` would take an EOFError in a command for Ctrl-C.
        with ablation.make_context("ablation", list(sys.argv[1:] if argv is None else argv)) as ctx:
            status = ablation.invoke(ctx) or 0
            sys.stdout.flush()
            return status
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except CommandFailed as failed:
        return failed.status
    except BrokenPipeError:  # the reader, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
