"""A job as the driver sees it, and how it ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..market.protocol import Requirements


@dataclass
class Task:
    """A job as plain values. Paths are absolute or relative to the working directory."""

    name: str
    command: str
    environment: dict[str, str]
    inputs: list[str]
    outputs: list[str]  # copied to this computer, and must exist
    extras: list[str]  # copied if they exist: logs and benchmarks
    remove: list[str]  # removed from the machine before the job starts
    requirements: Requirements
    states: list[str] = field(default_factory=list)  # folders that the job resumes from
    outcome: Outcome | None = None
    ends: Counter[str] = field(default_factory=Counter)  # how often attempts ended, by reason


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `why` is empty on success."""

    why: str = ""
    output: str = ""  # the end of what it printed
    log: str = ""  # the file that holds all of it


class RuleFailed(Exception):
    """The job itself failed."""

    def __init__(self, why: str, output: str) -> None:
        super().__init__(why)
        self.output = output
