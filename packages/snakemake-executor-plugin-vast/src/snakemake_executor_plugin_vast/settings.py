"""The settings of `--executor vast`; each is the option `--vast-NAME` on the command line."""

import math
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from .market import UnknownMarket, find_market, names_of
from .market.protocol import Requirements, SearchRules
from .market.selection import models_of

ENVIRONMENT = "/opt/snakemake"
# Debian's Python cannot put pip into a virtual environment, so the one of the image is used there.
# The file image.pth adds the packages of a Python that is itself in a virtual environment.
SETUP = """set -e
python3 -m venv --system-site-packages --without-pip {environment}
places='import site; print(*site.getsitepackages(), sep="\\n")'
python3 -c "$places" > "$({environment}/bin/python -c "$places" | head -n 1)/image.pth"
pip="{environment}/bin/python -m pip install -q"
$pip snakemake=={version}
for file in requirements.txt workflow/requirements.txt; do
    if [ -f $file ]; then $pip -r $file; fi
done"""
# Where the image has PyTorch, a matrix product shows that its CUDA and the host's driver agree.
SMOKE = """nvidia-smi -L && if python -c 'import torch' 2> /dev/null; then python -c '
import torch
x = torch.ones(512, 512, device="cuda")
assert (x @ x).sum().item() == 512 ** 3
'; fi"""


def setting(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


# Snakemake reads the types of the fields: no postponed annotations in this file.
@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    budget: float = setting(0.0, "Dollars that this run may cost; 0: no limit.")
    yes: bool = setting(False, "Rent machines without asking at the terminal.")
    market: str = setting(
        "vast",
        "Market for machines: vast or runpod. Offers of several, separated by commas, are ranked "
        "together.",
    )
    max_price: float = setting(
        5.0, "Dollars per hour that a machine may cost, disk and transfers included."
    )
    upload_gb: float = setting(
        5.0, "Gigabytes per hour that a machine is expected to send, for the price of transfers."
    )
    download_gb: float = setting(
        5.0, "Gigabytes per hour that a machine is expected to receive, for the price of transfers."
    )
    max_machines: int = setting(4, "Largest number of machines at the same time.")
    max_hours: float = setting(48.0, "Hours that a job without `runtime` may take.")
    interruptible: bool = setting(False, "Bid for interruptible machines for all rules.")
    bid_factor: float = setting(1.2, "A bid is the lowest one times this, at most max-price.")
    lost_bids: int = setting(
        2, "Interruptible machines that a job may lose before it runs on one rented on demand."
    )
    gpu_model: str = setting("", "GPU of jobs without `gpu_model`; several are separated by |.")
    disk_gb: int = setting(40, "Disk of a machine, unless `disk_mb` of a job is larger.")
    reliability: float = setting(0.98, "Least reliability of a host, from 0 to 1.")
    rank: str = setting(
        "price",
        "Which offers are tried first: the cheapest ones, or those with the market's highest score "
        "(speed, network and reliability for the price).",
        choices=["price", "score"],
    )
    cuda: float = setting(12.8, "Least CUDA version that a host's driver supports.")
    regions: str = setting("", "Two-letter country codes, separated by commas; empty: all.")
    inet_down: float = setting(200.0, "Least download rate of a host in Mbit/s.")
    datacenter: bool = setting(False, "Rent in data centres only.")
    image: str = setting("pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime", "Docker image.")
    setup: str = setting(
        "",
        "Shell command that runs once on each machine, in the working directory. Default: it makes "
        f"{ENVIRONMENT} with this version of Snakemake and the packages of requirements.txt and "
        "workflow/requirements.txt.",
    )
    packages: str = setting("", "Packages that pip installs after `setup`, separated by spaces.")
    activate: str = setting(f". {ENVIRONMENT}/bin/activate", "Shell command before each job.")
    smoke: str = setting(SMOKE, "Shell command that must succeed before the first job.")
    cpu_jobs: str = setting(
        "local", "Where jobs without `gpu` run: on this computer or a machine.",
        choices=["local", "rent"],
    )  # fmt: skip
    local_cores: int = setting(0, "Processors for jobs on this computer; 0: all.")
    idle_minutes: float = setting(5.0, "How long a machine waits for another job.")
    retries: int = setting(3, "Machines that a job may lose, for each reason.")
    boot_minutes: float = setting(15.0, "Time from the order of a machine to the first login.")
    setup_minutes: float = setting(30.0, "Time for `setup`.")
    stall_minutes: float = setting(
        30.0, "A job without output, state and GPU use for this time is stalled."
    )
    lost_minutes: float = setting(10.0, "A machine without an answer for this time is lost.")
    transfer_minutes: float = setting(
        5.0, "A transfer that moves less than 1 MiB in this time is ended."
    )
    output_mib: float = setting(64.0, "MiB that are kept of what a job prints.")
    margin_gb: float = setting(
        5.0, "GB that a job may send back beyond its `disk_mb`, or disk-gb if that is larger."
    )
    state_minutes: float = setting(10.0, "Least time between two saves of a job's state.")
    state_share: float = setting(
        10.0, "Least time between two saves, as a multiple of the last save's duration."
    )
    state_uri: str = setting("", "Where states are saved (s3://bucket/folder), through fsspec.")
    silent_minutes: float = setting(
        30.0, "A machine that the executor does not contact for this time stops itself."
    )
    keep_hours: float = setting(48.0, "How long a machine that stopped itself is kept.")
    stopped_dollars: float = setting(
        3.0, "If the disks of stopped machines cost more dollars a day, no machine is rented."
    )
    ledger: str = setting("ledger/{study}.jsonl", "The ledger; {study} is config['study'].")
    time_scale: float = setting(1.0, "Speed of the executor's clock, for tests.")


# Numbers that may be 0; all others must be above it.
MAY_BE_NONE = {"budget", "lost_bids", "reliability", "cuda", "inet_down", "local_cores"}
MAY_BE_NONE |= {"upload_gb", "download_gb"}
MAY_BE_NONE |= {"idle_minutes", "retries", "state_minutes", "state_share", "keep_hours"}
MAY_BE_NONE |= {"margin_gb", "stopped_dollars"}


def check(chosen: ExecutorSettings) -> None:
    """Raise WorkflowError for settings with which no job could run."""
    problems = []
    for name, value in vars(chosen).items():
        option = f"--vast-{name.replace('_', '-')}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if name in MAY_BE_NONE and not 0 <= value < math.inf:
                problems.append(f"{option}: {value} found, a number of at least 0 was expected")
            if name not in MAY_BE_NONE and not 0 < value < math.inf:
                problems.append(f"{option}: {value} found, a number above 0 was expected")
    for region in filter(None, map(str.strip, chosen.regions.split(","))):
        if not (len(region) == 2 and region.isalpha()):
            problems.append(f"--vast-regions: {region} found, two-letter codes were expected")
    try:
        chosen.ledger.format(study="")
    except (KeyError, IndexError, ValueError):
        problems.append(f"--vast-ledger: {chosen.ledger} found, only {{study}} can be replaced")
    if not names_of(chosen.market):
        problems.append("--vast-market: no name found, such as vast or vast,runpod was expected")
    for name in names_of(chosen.market):
        try:
            find_market(name)
        except UnknownMarket as error:
            problems.append(str(error))
    if problems:
        raise WorkflowError("\n".join(problems))


def check_image(image: str, workdir: Path) -> None:
    """Raise WorkflowError if the tag of `image` names another PyTorch than a requirements file."""
    tagged = re.search(r"torch[:-](\d+(?:\.\d+)+)", image)
    files = [*sorted(workdir.glob("requirements*.txt")), workdir / "workflow/requirements.txt"]
    for file in files if tagged else ():
        text = file.read_text("utf-8") if file.is_file() else ""
        pinned = re.search(r"^torch==(\d+(?:\.\d+)+)", text, re.M)
        if tagged and pinned and tagged[1] != pinned[1]:
            raise WorkflowError(
                f"--vast-image: {image} has PyTorch {tagged[1]}, but {file.relative_to(workdir)} "
                f"pins {pinned[1]}; nothing was rented. Choose an image with PyTorch {pinned[1]}, "
                "or change the pin"
            )


def setup_commands(chosen: ExecutorSettings, of_hook: str | None = None) -> tuple[str, ...]:
    """The shell commands that a machine runs once: the setting, a hook's, or the default."""
    default = SETUP.format(environment=ENVIRONMENT, version=version("snakemake"))
    command = chosen.setup or of_hook or default
    if not chosen.packages:
        return (command,)
    install = f"python -m pip install -q {chosen.packages}"
    return (command, f"{chosen.activate or ':'} && {install}")


def default_requirements(chosen: ExecutorSettings, preemptible: bool) -> Requirements:
    """The requirements of a job that names no resources."""
    return Requirements(
        gpu_models=models_of(chosen.gpu_model),
        disk_gb=chosen.disk_gb,
        seconds=chosen.max_hours * 3600,
        max_price=chosen.max_price,
        interruptible=chosen.interruptible or preemptible,
        upload_gb=chosen.upload_gb,
        download_gb=chosen.download_gb,
    )


def search_rules(chosen: ExecutorSettings) -> SearchRules:
    """The conditions of every search."""
    return SearchRules(
        reliability=chosen.reliability,
        cuda=chosen.cuda,
        regions=tuple(r.strip().upper() for r in chosen.regions.split(",") if r.strip()),
        download_mbit=chosen.inet_down,
        datacenter=chosen.datacenter,
        bid_factor=chosen.bid_factor,
        rank="score" if chosen.rank == "score" else "price",
    )
