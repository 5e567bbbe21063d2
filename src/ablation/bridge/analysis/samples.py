"""The sample rows of the second study, as arrays of correct answers. No torch."""

from __future__ import annotations

import numpy as np
import pandas as pd

# The arms without a translator, and the identity control.
ALONE = ("source_alone", "target_alone", "cascade", "identity", "token_budget")


class SameConfiguration(ValueError):
    """Two ablations have one configuration, so their difference would be noise."""


class Samples:
    """Sample rows of cells and of the arms without a translator.

    cells: one row for each cell, arm and question. alone: one row for each arm and question.
    summary: one row for each cell, by `regime/seed/recipe-kK`.
    """

    def __init__(self, cells: pd.DataFrame, alone: pd.DataFrame, summary: pd.DataFrame) -> None:
        """Raises SameConfiguration if two recipes have the same hash."""
        names = cells.groupby("config").recipe.nunique()
        if (names > 1).any():
            found = sorted(cells[cells.config == names.idxmax()].recipe.unique())
            raise SameConfiguration(
                f"{' and '.join(found)} have one configuration (hash {names.idxmax()}): their "
                "difference would be noise. Change the recipe of one of them, or remove it."
            )
        self.cells, self.alone, self.summary = cells, alone, summary
        self.seeds = sorted(int(s) for s in cells.seed.unique())
        direction = summary.groupby("recipe").direction.first()
        self.direction = {str(recipe): str(own) for recipe, own in direction.items()}

    def right(self, regime: str, recipe: str, k: int, arm: str = "bridged") -> np.ndarray:
        """[seeds, questions] of 0 and 1; of a diffusion translator the first noise.

        Raises KeyError if there are no such rows.
        """
        rows = self.cells.query(
            "regime == @regime and recipe == @recipe and k == @k and arm == @arm and noise == 0"
        )
        if rows.empty:
            raise KeyError(f"no rows of {recipe} at K = {k} in {regime}, arm {arm}")
        return rows.pivot(index="seed", columns="item", values="correct").to_numpy()

    def right_alone(self, regime: str, arm: str, direction: str, k: int = 0) -> np.ndarray:
        """[1, questions] of 0 and 1 of an arm without a translator. Raises KeyError as `right`."""
        rows = self.alone.query(
            "regime == @regime and arm == @arm and direction == @direction and k == @k"
        )
        if rows.empty:
            raise KeyError(f"no rows of {arm} in {regime}, {direction}")
        return rows.sort_values("item").correct.to_numpy()[None]

    def same_texts(self, regime: str, arm: str, other: str) -> bool:
        """Whether two arms without a translator generated the same text for every question."""
        rows = self.alone.query("regime == @regime and direction == 'forward'")
        texts = rows[rows.k == 0].pivot(index="item", columns="arm", values="text")
        return bool((texts[arm] == texts[other]).all())

    def kinds(self) -> list[tuple[str, str, int]]:
        """(regime, recipe, K) of every kind of cell, in the order of the rows."""
        found = self.cells[["regime", "recipe", "k"]].drop_duplicates()
        return [tuple(row) for row in found.itertuples(index=False)]
