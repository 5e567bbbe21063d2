"""The sample rows of the second study, as arrays of correct answers. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablation.config.bridge_blocks import Claims
from ablation.vocabulary.bridge import AGNOSTIC, FORWARD

# The arms without a translator, and the identity control. Two of them have rows for each K.
ALONE = ("source_alone", "target_alone", "cascade", "identity", "token_budget", "text_answer")
AT_EACH_K = ("token_budget", "text_answer")


class SameConfiguration(ValueError):
    """Two ablations have one configuration, so their difference would be noise."""


class Samples:
    """Sample rows of cells and of the arms without a translator.

    cells: one row for each cell, arm and question. alone: one row for each arm and question.
    summary: one row for each cell, by `regime/seed/recipe-kK`. seeds: those of all recipes, by
    default every seed; the primary cells of a freeze have further ones (`every_seed`).
    """

    def __init__(
        self,
        cells: pd.DataFrame,
        alone: pd.DataFrame,
        summary: pd.DataFrame,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Raises SameConfiguration if two recipes have the same hash."""
        names = cells.groupby("config").recipe.nunique()
        if (names > 1).any():
            found = sorted(cells[cells.config == names.idxmax()].recipe.unique())
            raise SameConfiguration(
                f"{' and '.join(found)} have one configuration (hash {names.idxmax()}): their "
                "difference would be noise. Change the recipe of one of them, or remove it."
            )
        self.cells, self.alone, self.summary = cells, alone, summary
        self.every_seed = sorted(int(s) for s in cells.seed.unique())
        self.seeds = self.every_seed if seeds is None else sorted(seeds)
        direction = summary.groupby("recipe").direction.first()
        self.direction = {str(recipe): str(own) for recipe, own in direction.items()}
        self._clusters: dict[str, np.ndarray | None] = {}

    def right(
        self,
        regime: str,
        recipe: str,
        k: int,
        arm: str = "bridged",
        seeds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """[seeds, questions] of 0 and 1; of a diffusion translator the first noise.

        `seeds` are those of all recipes by default. Raises KeyError if there are no such rows.
        """
        rows = self.cells.query(
            "regime == @regime and recipe == @recipe and k == @k and arm == @arm and noise == 0"
        )
        rows = rows[rows.seed.isin(self.seeds if seeds is None else seeds)]
        if rows.empty:
            raise KeyError(f"no rows of {recipe} at K = {k} in {regime}, arm {arm}")
        return rows.pivot(index="seed", columns="item", values="correct").to_numpy()

    def right_alone(self, regime: str, arm: str, direction: str, k: int = 0) -> np.ndarray:
        """[1, questions] of 0 and 1 of an arm without a translator. Raises KeyError as `right`."""
        return self.rows_alone(regime, arm, direction, k).correct.to_numpy()[None]

    def rows_alone(self, regime: str, arm: str, direction: str, k: int = 0) -> pd.DataFrame:
        """The rows of an arm without a translator, in the order of the questions.

        `k` matters only for the arms that have rows for each K. Raises KeyError as `right`.
        """
        k = k if arm in AT_EACH_K else 0
        rows = self.alone.query(
            "regime == @regime and arm == @arm and direction == @direction and k == @k"
        )
        if rows.empty:
            raise KeyError(f"no rows of {arm} in {regime}, {direction}")
        return rows.sort_values("item")

    def clusters(self, regime: str) -> np.ndarray | None:
        """The names of each question's clusters [questions, 1 or 2]; None if it has none."""
        if regime not in self._clusters:
            named = self.rows_alone(regime, "target_alone", FORWARD).cluster
            found = np.array([names.split() for names in named]) if (named != "").all() else None
            self._clusters[regime] = found
        return self._clusters[regime]

    def same_texts(self, regime: str, arm: str, other: str) -> bool:
        """Whether two arms without a translator generated the same text for every question."""
        rows = self.alone.query("regime == @regime and direction == 'forward'")
        texts = rows[rows.k == 0].pivot(index="item", columns="arm", values="text")
        return bool((texts[arm] == texts[other]).all())

    def kinds_of_claims(self, claims: Claims) -> list[tuple[str, str, int]]:
        """The kinds of cells that claims are about: one recipe and, of contexts, one more cell."""
        context = claims.context_recipe, claims.context_soft_tokens
        return [
            (regime, recipe, k)
            for regime, recipe, k in self.kinds()
            if recipe == claims.all_fixes or (regime in AGNOSTIC and (recipe, k) == context)
        ]

    def kinds(self) -> list[tuple[str, str, int]]:
        """(regime, recipe, K) of every kind of cell, in the order of the rows."""
        found = self.cells[["regime", "recipe", "k"]].drop_duplicates()
        return [tuple(row) for row in found.itertuples(index=False)]
