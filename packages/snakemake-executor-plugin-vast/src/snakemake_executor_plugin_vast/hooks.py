"""The hook by which a workflow's own package adds to this executor.

A distribution registers an object under any name in the entry-point group
`snakemake_executor_plugin_vast.hooks`. The object may define any of the methods of `Hook`; it need
not subclass it. Each method gets the running `Workflow` first and returns None if it does not know
that workflow, so several hooks can be installed. Hooks are loaded when the first job of a run needs
a machine, never for a dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_common.exceptions import WorkflowError

from .market.protocol import Requirements
from .market.selection import PricedOffer

if TYPE_CHECKING:
    from .settings import ExecutorSettings

GROUP = "snakemake_executor_plugin_vast.hooks"


class NotAllowed(WorkflowError):
    """No machine may be rented; the message says why and what to do."""


@dataclass(frozen=True)
class Workflow:
    """The running workflow, as far as a hook needs it."""

    workdir: Path
    config: Mapping[str, Any]  # Snakemake's merged configuration
    configfiles: Sequence[Path] = ()  # named on the command line or by the profile


@dataclass(frozen=True)
class RentedJob:
    """A job that needs a machine."""

    rule: str
    wildcards: Mapping[str, str]
    requirements: Requirements


@dataclass(frozen=True)
class RentalRequest:
    """The machines that a run is about to rent, before it rents any."""

    jobs: Sequence[RentedJob]
    settings: ExecutorSettings
    # Today's offers for the most demanding job, in the order in which they would be tried. Raises
    # market.protocol.MarketError, and NotAllowed if the market refuses the account or its key.
    offers: Callable[[], list[PricedOffer]]
    log: Callable[[str], None]
    # What to say beside the price: the credit, and the machines that earlier runs have left.
    notes: Callable[[], list[str]] = list

    @property
    def most_demanding(self) -> Requirements:
        """The requirements of the job that needs the largest machine."""
        found = [job.requirements for job in self.jobs]
        return max(found, key=lambda r: (r.gpus, r.gpu_mem_mb, r.disk_gb))


class Hook:
    """The methods that a hook may define, with the defaults of those that it does not."""

    def permit(self, workflow: Workflow, request: RentalRequest) -> bool | None:
        """Whether machines may be rented for these jobs. Called once in a run.

        The method may print a plan and ask at the terminal (inside
        `terminal.live_display_paused()`). It may raise NotAllowed to give a reason. With None from
        every hook the executor asks by itself.
        """
        return None

    def job_environment(self, workflow: Workflow, attempt: str) -> Mapping[str, str] | None:
        """Environment variables for an attempt at a job; `attempt` is its name in the ledger."""
        return None

    def setup(self, workflow: Workflow) -> str | None:
        """A shell command that installs the workflow's software, unless `--vast-setup` is given.

        It runs once on each machine, in the working directory, after the sources were copied.
        """
        return None

    def over_budget(self, workflow: Workflow, reason: str) -> None:
        """A job has failed because a machine for it could cost more than the run's budget allows.

        Called for each such job, with the amounts in `reason`. It must return at once.
        """


class Hooks:
    """All installed hooks. The first that answers decides; environment variables are merged."""

    def __init__(self, workflow: Workflow, hooks: Sequence[Any] | None = None) -> None:
        self.workflow = workflow
        self.hooks = _installed() if hooks is None else list(hooks)

    def permit(self, request: RentalRequest) -> bool | None:
        answer: bool | None = self._first("permit", request)
        return answer

    def setup(self) -> str | None:
        answer: str | None = self._first("setup")
        return answer

    def job_environment(self, attempt: str) -> dict[str, str]:
        merged: dict[str, str] = {}
        for method in self._methods("job_environment"):
            merged |= method(self.workflow, attempt) or {}
        return merged

    def over_budget(self, reason: str) -> None:
        for method in self._methods("over_budget"):
            method(self.workflow, reason)

    def _first(self, name: str, *arguments: Any) -> Any:
        answers = (method(self.workflow, *arguments) for method in self._methods(name))
        return next((answer for answer in answers if answer is not None), None)

    def _methods(self, name: str) -> list[Callable[..., Any]]:
        return [getattr(hook, name) for hook in self.hooks if hasattr(hook, name)]


def _installed() -> list[Any]:
    """The objects of the entry points, sorted by name. Raises WorkflowError."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            found.append(entry.load())
        except Exception as error:
            raise WorkflowError(
                f"The hook {entry.name} ({entry.value}) in the entry-point group {GROUP} cannot be "
                f"loaded: {type(error).__name__}: {error}. Nothing was rented. Repair or uninstall "
                "the package that registers it."
            ) from error
    return found
