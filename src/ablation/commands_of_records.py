"""The commands about where numbers come from: trace, diff, reproduce, push, pull."""

from __future__ import annotations

import argparse
import sys
from functools import partial, wraps
from pathlib import Path


def _told(run):
    """A command whose faults are a line for the user, and exit status 2, not a traceback."""

    @wraps(run)
    def wrapped(arguments: argparse.Namespace) -> int:
        from ablation.layers import ConfigError
        from ablation.provenance import StaleInput
        from ablation.reproduce import CannotReproduce
        from ablation.sides import NothingToCompare
        from ablation.store import StoreError
        from ablation.trace import CannotTrace

        refused = (CannotReproduce, CannotTrace, NothingToCompare)
        try:
            return run(arguments)
        except (*refused, ConfigError, StaleInput, StoreError, OSError) as fault:
            print(fault, file=sys.stderr)
            return 2

    return wrapped


def file_to_write(text: str) -> Path:
    """A path for a file, refused before any work is done where it could not be written."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; a file was expected")
    return path


def _add_trace(commands) -> None:
    trace = commands.add_parser(
        "trace",
        help="from a cell of a table to the runs, samples, weights, data, code and cost behind it",
        description="Everything that a cell was made from, as a tree; all of it is hashed again, "
        "and the accuracies behind the cell are computed again from the sample rows.",
    )
    trace.add_argument("table", type=Path, help="results/recovery.csv, or another of its tables")
    trace.add_argument(
        "--where", nargs="+", default=[], type=_pair, metavar="COLUMN=VALUE", help="the row"
    )
    trace.add_argument("--column", required=True, help="the cell in that row")
    trace.add_argument(
        "--json", type=file_to_write, metavar="FILE", help="as JSON; `-` prints it instead"
    )
    trace.add_argument("--ledger", type=Path, help="of an executor that pays for machines")
    trace.set_defaults(run=_trace)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: column=value was expected")
    return name, value


def _print(found, file: Path | None, show) -> None:
    """By `show`, and into `file` as JSON; as JSON alone where that is `-`."""
    import json

    from ablation.provenance import write_json

    if str(file) == "-":
        print(json.dumps(found, indent=2, sort_keys=True))
        return
    if file:
        write_json(file, found)
    show(found)


@_told
def _trace(arguments: argparse.Namespace) -> int:
    from ablation.trace import trace
    from ablation.trace_tree import show

    found = trace(arguments.table, dict(arguments.where), arguments.column, arguments.ledger)
    _print(found, arguments.json, show)
    return 0


def _add_diff(commands) -> None:
    compare = commands.add_parser(
        "diff",
        help="what differs between two results, two pushes or two commits",
        description="Configuration, code, packages, data, hardware, and accuracies with intervals "
        "for their differences on the same items.",
    )
    add = compare.add_argument
    add("a", help="a folder of results, a push (URI, or URI@SNAPSHOT), or a commit")
    add("b", help="the same")
    add("--study", help="of a store that holds several")
    add("--task", choices=("macro", "each"), default="macro", help="which numbers to print")
    add("--configfile", help="the study's file, when commits are compared")
    everything = "everything as JSON; `-` prints it instead"
    add("--json", type=file_to_write, metavar="FILE", help=everything)
    compare.set_defaults(run=_diff)


@_told
def _diff(arguments: argparse.Namespace) -> int:
    from ablation.diff import diff, show

    found = diff(arguments.a, arguments.b, arguments.study, arguments.configfile)
    _print(found, arguments.json, partial(show, every_task=arguments.task == "each"))
    return 0


def _add_reproduce(commands) -> None:
    from ablation.reproduce import STAGES

    again = commands.add_parser(
        "reproduce",
        help="make one stage again beside the results, and compare",
        description="Verify what a stage stands on, make the stage again in a temporary folder, "
        "and compare: identical, within tolerance, or different. results/ is not touched. Exit "
        "status: 0, or 1 where something differs by more than the tolerance, 2 where nothing "
        "could be said.",
    )
    again.add_argument("stage", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    add = again.add_argument
    add("--tolerance", type=float, default=0.0, help="between numbers, absolute (default: 0)")
    add("--only", nargs="+", default=[], metavar="PART", help="results with this in their path")
    add("--cores", default="all", help="for Snakemake (default: all)")
    add("--json", type=file_to_write, metavar="FILE", help="the verdicts as JSON")
    _add_study(again)
    again.set_defaults(run=_reproduce)


@_told
def _reproduce(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ablation.provenance import write_json
    from ablation.reproduce import CannotReproduce, reproduce

    if not arguments.tolerance >= 0:
        raise CannotReproduce(f"--tolerance {arguments.tolerance}: a number from 0 on was expected")
    file = arguments.configfile
    verdicts = reproduce(
        arguments.stage,
        _study(arguments).study,
        arguments.tolerance,
        arguments.cores,
        arguments.only,
        ["--configfile", str(file.resolve())] if file else [],
    )
    if arguments.json:
        write_json(arguments.json, [asdict(verdict) for verdict in verdicts])
    unlike = [verdict for verdict in verdicts if verdict.verdict != "identical"]
    for verdict in unlike:
        print(verdict)
    failed = [verdict for verdict in unlike if verdict.verdict == "different"]
    same = len(verdicts) - len(unlike)
    words = "different" if failed else "within tolerance" if unlike else "identical"
    print(f"{arguments.stage}: {words} ({same} of {len(verdicts)} files identical)")
    return 1 if failed else 0


def _add_push(commands) -> None:
    push = commands.add_parser(
        "push",
        help="send a study's results to a folder, s3:// or hf://, only what is missing there",
        description="Send what a store lacks of a study's results, by content, with what Snakemake "
        "noted about them: `ablation pull` on another machine, and nothing is left to be done.",
    )
    _add_store(push)
    weights = argparse.BooleanOptionalAction
    push.add_argument("--weights", action=weights, help="default: the study's keep_weights")
    push.add_argument("--check", action="store_true", help="read back what is there already")
    push.set_defaults(run=_push)


def _add_pull(commands) -> None:
    pull = commands.add_parser(
        "pull",
        help="bring a study's results from where they were pushed, every byte verified",
        description="Bring what is missing here of a push, verified, with what Snakemake noted.",
    )
    _add_store(pull)
    pull.add_argument("--no-weights", action="store_true", help="leave checkpoints' weights there")
    pull.add_argument("--snapshot", metavar="HASH", help="another push than the last one")
    pull.add_argument("--force", action="store_true", help="overwrite files of other content")
    pull.set_defaults(run=_pull)


def _add_store(command) -> None:
    command.add_argument("uri", help="a folder, s3://bucket/folder, hf://datasets/owner/name")
    _add_study(command)


def _add_study(command) -> None:
    command.add_argument(
        "--configfile", type=Path, help="the study's file (default: config/default.yaml)"
    )


def _study(arguments: argparse.Namespace):
    """The study that a command is about, as Snakemake would read it from the same file."""
    from ablation.config import load_study
    from ablation.layers import read_layer

    file = arguments.configfile
    return load_study(read_layer(file).values if file else {}, "config", [file] if file else [])


@_told
def _push(arguments: argparse.Namespace) -> int:
    from ablation.push import push

    study = _study(arguments)
    weights = study.keep_weights if arguments.weights is None else arguments.weights
    print(push(arguments.uri, study.study, weights, arguments.check))
    return 0


@_told
def _pull(arguments: argparse.Namespace) -> int:
    from ablation.push import pull

    study = _study(arguments).study
    weights = not arguments.no_weights
    print(pull(arguments.uri, study, weights, arguments.snapshot, arguments.force))
    return 0


ALL = (_add_trace, _add_diff, _add_reproduce, _add_push, _add_pull)
