"""The settings of `--executor vast`; each is `--vast-<name>` on the command line."""

import math
from dataclasses import dataclass, field

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from .offers import Market, Wish
from .watch import Limits

VENV = "/opt/ablation"
# The image's own pip serves the environment: Debian's Python has none to put there (ensurepip).
SETUP = (
    f"set -e; python3 -m venv --system-site-packages --without-pip {VENV}; "
    f"pip='{VENV}/bin/python -m pip install -q'; "
    "$pip -r requirements-torch.txt; "
    "$pip --no-deps --require-hashes -r requirements.txt; "
    "$pip --no-deps --no-build-isolation -e ."
)
SMOKE = (
    'nvidia-smi -L && python -c \'import torch; x = torch.ones(512, 512, device="cuda"); '
    "assert (x @ x).sum().item() == 512 ** 3'"
)


def setting(default, help: str, **more):
    return field(default=default, metadata={"help": help, **more})


# Snakemake reads the types of the fields: no postponed annotations in this file.
@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    budget: float = setting(0.0, "Dollars that this run may cost; 0: no bound.")
    yes: bool = setting(False, "Rent without asking at the terminal.")
    max_price: float = setting(5.0, "Dollars an hour that one machine may cost, disk included.")
    max_machines: int = setting(4, "Machines at a time.")
    max_hours: float = setting(48.0, "Hours that a job without `runtime` may take.")
    interruptible: bool = setting(False, "Bid for interruptible machines for all rules.")
    bid_factor: float = setting(1.2, "A bid is this times the lowest one, and at most max_price.")
    lost_bids: int = setting(2, "Interruptible machines that a job may lose; then on demand.")
    gpu_model: str = setting("", "GPU for jobs without `gpu_model`; several with |.")
    disk_gb: int = setting(40, "Disk of a machine, unless a job's `disk_mb` asks for more.")
    reliability: float = setting(0.98, "Least reliability of a host.")
    cuda: float = setting(12.8, "Least CUDA version of a host's driver.")
    regions: str = setting("", "Two-letter countries, with commas; empty: anywhere.")
    inet_down: float = setting(200.0, "Least download rate of a host, Mbit/s.")
    datacenter: bool = setting(False, "Only data centres.")
    image: str = setting("pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime", "Docker image.")
    setup: str = setting(SETUP, "Command run once a machine, in the working directory.")
    packages: str = setting("", "What pip shall install there after `setup`, with spaces.")
    activate: str = setting(f". {VENV}/bin/activate", "Command run before each job.")
    smoke: str = setting(SMOKE, "Command that must succeed before the first job.")
    cpu_jobs: str = setting("local", "Where jobs without `gpu` run.", choices=["local", "rent"])
    local_cores: int = setting(0, "Processors for jobs that run here; 0: all.")
    idle_minutes: float = setting(5.0, "How long a machine waits for another job.")
    retries: int = setting(3, "Machines that a job may lose, for each reason.")
    boot_minutes: float = setting(15.0, "From the rental to the first login.")
    setup_minutes: float = setting(30.0, "For `setup`, at most.")
    stall_minutes: float = setting(30.0, "Without output, steps or GPU use, a job is stalled.")
    lost_minutes: float = setting(10.0, "Without an answer, a machine is given up.")
    state_minutes: float = setting(10.0, "How often the state of a job comes home, at most.")
    state_share: float = setting(10.0, "And not before this many times the last transfer's time.")
    state_uri: str = setting("", "s3://bucket/folder where states go instead, by fsspec.")
    silent_minutes: float = setting(30.0, "Without its driver, a machine stops itself.")
    keep_hours: float = setting(48.0, "How long a machine so stopped is worth keeping.")
    ledger: str = setting("ledger/{study}.jsonl", "The ledger; {study} is config['study'].")
    time_scale: float = setting(1.0, "For tests: how fast the executor's clock runs.")


# Numbers that may be 0; all others must be above it.
MAY_BE_NONE = {"budget", "lost_bids", "reliability", "cuda", "inet_down", "local_cores"}
MAY_BE_NONE |= {"idle_minutes", "retries", "state_minutes", "state_share", "keep_hours"}


def check(chosen: ExecutorSettings) -> None:
    """Raise WorkflowError for what would rent nothing, wait for ever, or end each job at once."""
    problems = []
    for name, value in vars(chosen).items():
        option = f"--vast-{name.replace('_', '-')}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if name in MAY_BE_NONE and not 0 <= value < math.inf:
                problems.append(f"{option}: {value} found, a number from 0 was expected")
            if name not in MAY_BE_NONE and not 0 < value < math.inf:
                problems.append(f"{option}: {value} found, a number above 0 was expected")
    for region in filter(None, map(str.strip, chosen.regions.split(","))):
        if not (len(region) == 2 and region.isalpha()):
            problems.append(f"--vast-regions: {region} found, two letters a country were expected")
    try:
        chosen.ledger.format(study="")
    except (KeyError, IndexError, ValueError):
        problems.append(f"--vast-ledger: {chosen.ledger} found, only {{study}} is filled in")
    if problems:
        raise WorkflowError("\n".join(problems))


def setup_of(chosen: ExecutorSettings) -> str:
    """The command that a machine runs once."""
    more = f" && {chosen.activate or ':'} && python -m pip install -q {chosen.packages}"
    return chosen.setup + (more if chosen.packages else "")


def wish_default(chosen: ExecutorSettings, preemptible: bool) -> Wish:
    """What a job gets that does not ask."""
    return Wish(
        gpu_models=tuple(model.strip() for model in chosen.gpu_model.split("|") if model.strip()),
        disk_gb=chosen.disk_gb,
        seconds=chosen.max_hours * 3600,
        max_price=chosen.max_price,
        interruptible=chosen.interruptible or preemptible,
    )


def market_of(chosen: ExecutorSettings) -> Market:
    return Market(
        reliability=chosen.reliability,
        cuda=chosen.cuda,
        regions=tuple(r.strip().upper() for r in chosen.regions.split(",") if r.strip()),
        inet_down=chosen.inet_down,
        datacenter=chosen.datacenter,
        bid_factor=chosen.bid_factor,
    )


def limits_of(chosen: ExecutorSettings) -> Limits:
    return Limits(
        boot=chosen.boot_minutes * 60,
        setup=chosen.setup_minutes * 60,
        stall=chosen.stall_minutes * 60,
        silent=chosen.lost_minutes * 60,
        offline=chosen.lost_minutes * 30,
        idle=chosen.idle_minutes * 60,
    )
