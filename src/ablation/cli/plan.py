"""`ablation plan`: estimates the hours and dollars of the jobs that a run would start."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablation.cli.options import Commands, number, report_errors
from ablation.console.printable import printable_json


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    plan = commands.add_parser(
        "plan",
        help="Estimate the hours and dollars of all stale jobs on each kind of machine.",
        description="List the stale jobs by a dry run of Snakemake, and estimate how long they "
        "take and what they cost on each kind of machine. Nothing is rented. docs/plan.md "
        "explains the estimate.",
    )
    option = plan.add_argument
    option(
        "target",
        nargs="*",
        default=["results/recovery.csv"],
        help="Targets of Snakemake (default: the recovery table).",
    )
    option(
        "--profile",
        help="The profile that Snakemake would use (vast, slurm, gpu); it names the study.",
    )
    option(
        "--configfile",
        nargs="+",
        default=[],
        help="The configuration file of another study, as for Snakemake.",
    )
    option(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="Single values of the configuration, as for Snakemake.",
    )
    option(
        "--machines",
        type=int,
        default=1,
        help="The largest number of machines that work at the same time (default: 1).",
    )
    option(
        "--live",
        action="store_true",
        help="Take today's offers from the market instead of the stored table of prices.",
    )
    option(
        "--benchmark",
        type=Path,
        default=Path("benchmarks/results/h100.json"),
        help="The file with measured step times (default: benchmarks/results/h100.json).",
    )
    minutes = number(0)
    option(
        "--startup-minutes",
        type=minutes,
        default=4,
        help="The time until a rented machine has booted (default: 4).",
    )
    option(
        "--setup-minutes",
        type=minutes,
        default=6,
        help="The time to install the environment on a machine (default: 6).",
    )
    option(
        "--checkpoint-gb",
        type=number(0),
        default=7,
        help="The size of the base and of each checkpoint in GB (default: 7).",
    )
    option(
        "--megabits",
        type=number(0, exclusive=True),
        default=500,
        help="The bandwidth to and from a machine in megabits a second (default: 500).",
    )
    option("--json", action="store_true", help="Print the plan as JSON.")
    plan.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    from ablation.config.merging import ConfigError
    from ablation.planning import dry_run, estimate, prices
    from ablation.planning.print_plan import print_plan

    gigabytes = arguments.checkpoint_gb
    overheads = estimate.Overheads(
        startup=arguments.startup_minutes * 60,
        setup=arguments.setup_minutes * 60,
        base_gb=gigabytes,
        checkpoint_gb=gigabytes,
        state_gb=3 * gigabytes,  # weights, and their float32 copies
        megabits=arguments.megabits,
    )
    options = (arguments.profile, arguments.configfile, arguments.config)
    failures = (ConfigError, OSError, ValueError, prices.NoOffers, dry_run.DryRunFailed)
    with report_errors(*failures):
        market = prices.Market.read("resources/planning/offers.json")
        study = dry_run.study_of(*options)
        jobs = dry_run.stale_jobs(arguments.target, dry_run.snakemake_options(*options))
        offers = market.prices
        if arguments.live:
            offers = prices.live_offers(market, study.hardware.gpu_mem_mb)
        plan = dry_run.plan_jobs(
            jobs, study, market, offers, overheads, arguments.machines, arguments.benchmark
        )
    if arguments.json:
        print(printable_json(plan.as_json()))
    else:
        print_plan(plan, study.study, len(jobs))
    return 0
