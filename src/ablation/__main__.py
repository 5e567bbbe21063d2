"""`ablation`: what is done around a study rather than in it."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from pathlib import Path

from ablation import commands_of_records
from ablation.names import MASKS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ablation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    own = (_add_plan, _add_table, _add_sample, _add_accept, _add_pin, _add_reap)
    for add in (*own, *commands_of_records.ALL):
        add(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130  # as a shell says it


def _add_plan(commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="hours and dollars of what is stale, on each class of machine",
        description="Ask Snakemake by a dry run which jobs are stale, and say what they would take "
        "and cost. Nothing is rented. docs/plan.md says what is reckoned with.",
    )
    add = plan.add_argument
    add("target", nargs="*", default=["results/recovery.csv"], help="default: the recovery table")
    add("--profile", help="Snakemake's: vast, slurm, gpu; it names the study")
    add("--configfile", nargs="+", default=[], help="Snakemake's: another study")
    add("--config", nargs="+", default=[], metavar="KEY=VALUE", help="Snakemake's")
    some, more = _number(0), _number(0, beyond=True)
    add("--machines", type=int, default=1, help="at most so many at once; default: 1")
    add("--live", action="store_true", help="ask today's market instead of the price table")
    add("--benchmark", type=Path, default=Path("benchmarks/results/h100.json"), help="step times")
    add("--startup-minutes", type=some, default=4, help="of a machine; default: 4")
    add("--setup-minutes", type=some, default=6, help="of its environment; default: 6")
    add("--checkpoint-gb", type=some, default=7, help="of base and checkpoints; default: 7")
    add("--megabits", type=more, default=500, help="a second, to and from it; default: 500")
    add("--json", action="store_true", help="the plan as JSON")
    plan.set_defaults(run=_plan)


def _number(least: float, beyond: bool = False):
    """A number from `least` on, or `beyond` it, as an argument."""

    def read(text: str) -> float:
        value = float(text)
        if not (least < value < math.inf or value == least and not beyond):
            bound = "above" if beyond else "from"
            raise argparse.ArgumentTypeError(f"{text}: a number {bound} {least:g} was expected")
        return value

    read.__name__ = "number"  # what argparse calls it
    return read


def _plan(arguments: argparse.Namespace) -> int:
    from ablation import offers, planning, stale
    from ablation.layers import ConfigError
    from ablation.provenance import canonical_json
    from ablation.tables import print_plan

    gigabytes = arguments.checkpoint_gb
    over = planning.Overheads(
        startup=arguments.startup_minutes * 60,
        setup=arguments.setup_minutes * 60,
        base_gb=gigabytes,
        checkpoint_gb=gigabytes,
        state_gb=3 * gigabytes,  # weights, and their float32 copies
        megabits=arguments.megabits,
    )
    named = (arguments.profile, arguments.configfile, arguments.config)
    try:
        market = offers.Market.read("resources/planning/offers.json")
        study = stale.study_of(*named)
        jobs = stale.ask(arguments.target, stale.options(*named))
        found = market.prices
        if arguments.live:
            found = offers.live(market, study.hardware.gpu_mem_mb)
        plan = stale.reckon(
            jobs, study, market, found, over, arguments.machines, arguments.benchmark
        )
    except (ConfigError, OSError, ValueError, offers.NoOffers, stale.DryRunFailed) as fault:
        print(fault, file=sys.stderr)
        return 1
    if arguments.json:
        print(canonical_json(plan.as_json()))
    else:
        print_plan(plan, study.study, len(jobs))
    return 0


def _add_table(commands) -> None:
    table = commands.add_parser("table", help="print a recovery table, or a bridge's claims")
    table.add_argument("file", type=Path, nargs="?", default=Path("results/recovery.csv"))
    table.add_argument("--seed", default="all", help="one seed, or `all` (default)")
    table.add_argument("--task", default="macro", help="one task, `macro` (default), or `each`")
    table.set_defaults(run=_table)


def _table(arguments: argparse.Namespace) -> int:
    from ablation.provenance import StaleInput
    from ablation.tables import print_claims, print_recovery
    from ablation.trace import verify_table

    try:
        verify_table(arguments.file)
        if arguments.file.name == "claims.csv":
            return print_claims(arguments.file)
        return print_recovery(arguments.file, arguments.seed, arguments.task)
    except (StaleInput, ValueError) as fault:  # no table, an edited one, or text for numbers
        print(fault, file=sys.stderr)
        return 1


def _add_sample(commands) -> None:
    about = "continue prompts with the base and its finetuned models, side by side"
    sample = commands.add_parser(
        "sample",
        help=about,
        description=f"{about[0].upper()}{about[1:]}: prefill under each mask, causal decoding.",
        epilog="full_bidir generates as prefill_bidir does: while a prompt is read there is no "
        "continuation that it could see.",
    )
    add = sample.add_argument
    add("--study", default="micro", help="reads results/STUDY (default: micro)")
    add("--recipe", nargs="+", default=[], help="default: all that are there")
    add("--seed", nargs="+", type=int, default=[], help="of the finetuning; default: the first")
    masks = ["causal", "prefill_bidir"]
    add("--mask", nargs="+", default=masks, choices=MASKS, help=f"default: {' '.join(masks)}")
    add("--prompt", nargs="+", default=[], help="default: one item of each of the study's tasks")
    add("--file", type=Path, help="one prompt a line; .jsonl: Alpaca records, or {prompt, answer}")
    add("--instruction", action="store_true", help="put prompts into the form of the finetuning")
    add("--max-new-tokens", type=int, default=32, help="default: 32")
    add("--temperature", type=float, default=0.0, help="0 (default) decodes greedily")
    add("--sampling-seed", type=int, default=0, help="of a temperature above 0; default: 0")
    add("--device", default="cpu", help="cpu (default), cuda")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32")
    out = commands_of_records.file_to_write
    add("--out", type=out, help="write the continuations there as well: .jsonl, .csv or .md")
    sample.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> int:
    # Loading bars and remarks of the libraries would stand between the tables. They are read when
    # the libraries are imported, as is torch, which no other command needs.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from ablation import sample
    from ablation.hub import HubError
    from ablation.provenance import StaleInput

    results, out = Path("results") / arguments.study, arguments.out
    try:
        if arguments.max_new_tokens < 1 or not 0 <= arguments.temperature < math.inf:
            raise sample.CannotSample("--max-new-tokens starts at 1, --temperature at 0")
        if out and out.suffix not in sample.FORMS:
            raise sample.CannotSample(f"--out {out}: expected {', '.join(sample.FORMS)}")
        models = sample.models_of(results, arguments.recipe, arguments.seed)
        prompts = sample.prompts_of(
            results, arguments.prompt, arguments.file, arguments.instruction
        )
        found = list(
            sample.sample(
                models,
                prompts,
                arguments.mask,
                max_new_tokens=arguments.max_new_tokens,
                temperature=arguments.temperature,
                seed=arguments.sampling_seed,
                device=arguments.device,
                dtype=arguments.dtype,
            )
        )
        if out:
            sample.write(found, out)
    except (sample.CannotSample, HubError, StaleInput, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1
    sample.show(found)
    if out:
        print(f"{len(found)} continuations in {out}")
    return 0


def _add_accept(commands) -> None:
    accept = commands.add_parser(
        "accept",
        help="record that a refactoring changes no result: nothing runs again",
        description="Record in accepted.json, for you to commit, that today's code of a stage "
        "makes the results that stand in the results folder. Snakemake and every later stage then "
        "take them as current. Configuration, packages and inputs still count.",
    )
    add = accept.add_argument
    add("stage", nargs="+", help="stage3_finetune, ...: the `stage` of a manifest's stamp")
    add("--why", required=True, metavar="TEXT", help="kept in accepted.json")
    add("--results", type=Path, default=Path("results"), help="whose (default: results)")
    accept.set_defaults(run=_accept)


def _accept(arguments: argparse.Namespace) -> int:
    from ablation.accept import accept
    from ablation.provenance import StaleInput

    refused = 0
    for stage in arguments.stage:
        try:
            print(accept(stage, arguments.why, ".", arguments.results))
        except (StaleInput, ValueError) as fault:
            print(fault, file=sys.stderr)
            refused = 1
    return refused


def _add_pin(commands) -> None:
    pin = commands.add_parser(
        "pin",
        help="ask the hub for the commits that a study lacks, and write them into its file",
        description="Each hub repository that the study reads and that has no commit under `pins` "
        "is looked up once (a branch or tag named there, else the main branch). Comments stay.",
    )
    pin.add_argument("file", type=Path, help="the study's file: config/ministral3b.yaml")
    pin.add_argument("--folder", type=Path, default=Path("config"), help="what it may extend")
    pin.set_defaults(run=_pin)


def _pin(arguments: argparse.Namespace) -> int:
    from ablation.hub import HubError
    from ablation.layers import ConfigError
    from ablation.pins import pin

    try:
        written = pin(arguments.file, arguments.folder)
    except (ConfigError, HubError, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1
    for repository, (commit, file) in written.items():
        print(f"{repository}: {commit} ({file})")
    if not written:
        print(f"{arguments.file}: every hub repository that it reads has its commit")
    return 0


def _add_reap(commands) -> None:
    reap = commands.add_parser(
        "reap",
        help="end the Vast.ai machines that killed runs of this folder have left",
        description="Brings the states of their jobs home, destroys them, and waits until the "
        "service no longer lists them. Machines of a run that is alive, or that was started "
        "elsewhere, are not touched.",
    )
    reap.set_defaults(run=_reap)


def _reap(arguments: argparse.Namespace) -> int:
    # Not at the top: whoever rents nothing needs no executor.
    from snakemake_executor_plugin_vast.api import Vast, VastError, find_key
    from snakemake_executor_plugin_vast.runs import PLACE, reap

    if not PLACE.is_dir():
        print(
            f"{Path.cwd()}: no run has rented from here, so nothing was looked up. Call it where "
            "Snakemake was started"
        )
        return 0
    try:
        left = reap(Path.cwd(), lambda: Vast(find_key(dict(os.environ), Path.home())), print)
    except (VastError, ValueError) as fault:
        print(fault, file=sys.stderr)
        return 1
    print(f"still listed: {' '.join(left)}" if left else "no machines of killed runs are left")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
