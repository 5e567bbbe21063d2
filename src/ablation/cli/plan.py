"""`ablation plan`: estimates the hours and dollars of the jobs that a run would start."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import PATH, Command, Several, number, report_errors
from ablation.cli.studies import RECOVERY, configfile_of, study_options
from ablation.console.printable import printable_json


@click.command(
    cls=Command,
    short_help="Estimate the hours and dollars of all stale jobs on each kind of machine.",
    examples=(
        "ablation plan",
        "ablation plan --profile vast --machines 3",
        "ablation plan --study dose --live --json",
    ),
)
@click.argument(
    "targets",
    metavar="[TARGET]...",
    nargs=-1,
    help="Targets of Snakemake (default: the recovery table).",
)
@click.option(
    "--profile", help="The profile that Snakemake would use (vast, slurm, gpu); it names the study."
)
@click.option(
    "--config",
    cls=Several,
    metavar="KEY=VALUE",
    help="Single values of the configuration, as for Snakemake.",
)
@click.option(
    "--machines",
    type=int,
    help="The largest number of machines that work at the same time (default: 1, 2 and 4).",
)
@click.option(
    "--live",
    is_flag=True,
    help="Take today's offers from the market instead of the stored table of prices.",
)
@click.option(
    "--benchmark",
    type=PATH,
    default=Path("benchmarks/results/h100.json"),
    help="The file with measured step times (default: benchmarks/results/h100.json).",
)
@click.option(
    "--startup-minutes",
    type=number(0),
    default=4,
    help="The time until a rented machine has booted (default: 4).",
)
@click.option(
    "--setup-minutes",
    type=number(0),
    default=6,
    help="The time to install the environment on a machine (default: 6).",
)
@click.option(
    "--billions",
    type=number(0, exclusive=True),
    help="The weights of the model in billions, if they are more than the 3.4 of the measured one "
    "(default: those of a random base, else 3.4).",
)
@click.option(
    "--checkpoint-gb",
    type=number(0),
    help="The size of the base and of each checkpoint in GB (default: two bytes for each weight, "
    "and at least 7).",
)
@click.option(
    "--megabits",
    type=number(0, exclusive=True),
    default=500,
    help="The bandwidth to and from a machine in megabits a second (default: 500).",
)
@click.option("--json", is_flag=True, help="Print the plan as JSON.")
@study_options
def plan(
    targets: tuple[str, ...],
    profile: str | None,
    config: tuple[str, ...],
    machines: int | None,
    live: bool,
    benchmark: Path,
    startup_minutes: float,
    setup_minutes: float,
    billions: float | None,
    checkpoint_gb: float | None,
    megabits: float,
    json: bool,
    configfile: Path | None,
    study: str | None,
) -> int:
    """List the stale jobs by a dry run of Snakemake, and estimate how long they take and what they
    cost on each kind of machine. Nothing is rented. docs/plan.md explains the estimate.

    Without --study and --configfile, the study is that of config/default.yaml, or of the profile.
    """
    from ablation.config.merging import ConfigError
    from ablation.planning import dry_run, estimate, prices
    from ablation.planning.print_plan import print_plan

    failures = (ConfigError, OSError, ValueError, prices.NoOffers, dry_run.DryRunFailed)
    with report_errors(*failures):
        market = prices.Market.read(prices.shipped(prices.OFFERS))
        file = configfile_of(configfile, study)
        options = (profile, [str(file)] if file else [], config)
        configured = dry_run.study_of(*options)
        size = prices.billions_of(configured) if billions is None else billions
        gigabytes = max(7, 2 * size) if checkpoint_gb is None else checkpoint_gb
        overheads = estimate.Overheads(
            startup=startup_minutes * 60,
            setup=setup_minutes * 60,
            base_gb=gigabytes,
            checkpoint_gb=gigabytes,
            state_gb=3 * gigabytes,  # weights, and their float32 copies
            megabits=megabits,
        )
        jobs = dry_run.stale_jobs(targets or [str(RECOVERY)], dry_run.snakemake_options(*options))
        offers = market.prices
        if live:
            offers = prices.live_offers(market, configured.hardware.gpu_mem_mb)
        counts = (1, 2, 4) if machines is None else (machines,)
        plan = dry_run.plan_jobs(
            jobs, configured, market, offers, overheads, counts, benchmark, size
        )
    if json:
        print(printable_json(plan.as_json()))
    else:
        print_plan(plan, configured.study, len(jobs))
    return 0
