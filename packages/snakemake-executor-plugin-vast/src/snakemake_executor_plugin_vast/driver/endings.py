"""Why a machine, an attempt to rent, or a run ends."""

from __future__ import annotations


class Lost(Exception):
    """The machine cannot be used, or no longer: `why` in one word, and the details."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(f"{why}: {detail}" if detail else why)
        self.why = why


class NothingToRent(Exception):
    """No offer fits, or no machine of those that fit started."""


class OverBudget(Exception):
    """Renting more could exceed the budget of the run."""


class Closing(Exception):
    """The run is ending."""
