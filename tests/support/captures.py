"""Counts the CUDA graphs that are captured."""

import pytest

from ablation.scoring.replayed import Replayed


def captures(monkeypatch: pytest.MonkeyPatch) -> list:
    """A list that gets every capture of a forward from now on; None for one that failed."""
    found: list = []
    capture = Replayed._captured

    def counted(self, key, forward):
        found.append(capture(self, key, forward))
        return found[-1]

    monkeypatch.setattr(Replayed, "_captured", counted)
    return found
