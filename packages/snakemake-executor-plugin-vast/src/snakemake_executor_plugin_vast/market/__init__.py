"""Markets for machines: what the executor needs of one (`protocol`), and one module for each.

A market is a module `snakemake_executor_plugin_vast.market.NAME`, or a module or object that
another distribution registers under NAME in the entry-point group
`snakemake_executor_plugin_vast.markets`. It has two attributes:

- `connect(environment, home, clock)` returns a `protocol.Market`, and raises `protocol.NoKey` when
  the key is neither in `environment` nor in a file below the folder `home`.
- `SECRETS` names the environment variables that no child process may inherit.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, MutableMapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from ..clock import Clock
from .protocol import Market
from .several import Several

GROUP = "snakemake_executor_plugin_vast.markets"


class UnknownMarket(ValueError):
    """No market has this name."""


class MarketModule(Protocol):
    """What a module of a market must define."""

    SECRETS: tuple[str, ...]

    def connect(self, environment: Mapping[str, str], home: Path, clock: Clock) -> Market: ...


def find_market(name: str) -> MarketModule:
    """The module of the market `name`. Raises UnknownMarket."""
    module = f"{__name__}.{name}"
    if name.isidentifier() and find_spec(module):
        own = importlib.import_module(module)
        if hasattr(own, "connect"):  # the others are what markets share
            return cast(MarketModule, own)
    for entry in entry_points(group=GROUP, name=name):
        found: MarketModule = entry.load()
        return found
    raise UnknownMarket(
        f"--vast-market: {name} found, but neither a module {module} nor an entry point of that "
        f"name in the group {GROUP} is installed"
    )


def names_of(names: str) -> list[str]:
    """The markets that a setting such as `vast,runpod` names."""
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def connect(
    names: str, environment: Mapping[str, str], home: Path, clock: Clock | None = None
) -> Market:
    """The market that a setting names, or several as one. Raises UnknownMarket and NoKey."""
    clock = clock or Clock()
    found = {n: find_market(n).connect(environment, home, clock) for n in names_of(names)}
    return Several(found) if len(found) > 1 else next(iter(found.values()))


def secrets_of(names: str) -> set[str]:
    """The environment variables that no child process may inherit."""
    return {secret for name in names_of(names) for secret in find_market(name).SECRETS}


def take_secrets(names: str, environment: MutableMapping[str, str]) -> dict[str, str]:
    """Remove the markets' secrets from `environment`; a copy of what it held before."""
    before = dict(environment)
    for secret in secrets_of(names):
        environment.pop(secret, None)
    return before
