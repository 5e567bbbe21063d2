"""The terminal, when a view draws on it: whoever must ask the person there borrows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_lend: Callable[[], AbstractContextManager] = nullcontext


@contextmanager
def borrowed() -> Iterator[None]:
    """Meanwhile nothing is drawn, and the standard streams are the terminal's again."""
    with _lend():
        yield


def lent_by(lend: Callable[[], AbstractContextManager] | None) -> None:
    """From now on a view holds the terminal and gives it away by `lend`; None: nobody does."""
    global _lend
    _lend = lend or nullcontext
