"""The columns of recovery.csv: the name, meaning, kind and computation of each, in one table.

A new column needs one new entry in `_TABLE` and nothing else: recovery.csv and published.csv get
the column, `ablation trace` follows it to the conditions that it is computed from, and `make
config` writes its meaning into docs/stages.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ablation.analysis.conditions import Condition, comparable
from ablation.analysis.statistics import SEEDS_DISAGREE_BELOW, Difference, Ratio
from ablation.config.fields import Strict
from ablation.config.recipes import MetricName
from ablation.config.study import Criteria, Statistics
from ablation.vocabulary.protocols import ALL_SEEDS

REHEARSAL = "false: random weights, a rehearsal: accuracies mean nothing"

NO_CONTROL = "no_control"  # nothing was trained as the recipe was, but without the ablation

Value = str | bool | int | float | None
Kind = Literal["words", "number", "p value", "hash"]


class RecoverySettings(Strict):
    """The part of a study's configuration that the recovery table depends on.

    controls: the control of each recipe that has one.
    rehearsal: whether weights are random; then every row says that its numbers mean nothing.
    """

    study: str
    metric: MetricName
    statistics: Statistics
    criteria: Criteria
    controls: dict[str, str] = {}
    rehearsal: bool = False


@dataclass(frozen=True)
class Comparison:
    """What one row is computed from: B, A and P of a recipe, seed, mask and task.

    Under `causal` nothing is ablated: `ablated`, `a`, `damage` and `recovered` are None, and
    `change` is P - B. Under any other mask, `change` is P - A.

    n: number of items. clusters: number of independent draws among them. design_effect: of
    `change`. exposure: whether the finetuning records hold the task. finetuned: one condition, or
    those of all seeds. seeds_p: of the hypothesis that P has one accuracy in all seeds, for two or
    more. b, a, p: accuracies. control: the recipe of the control, if there is one; controls: its
    conditions, c and d its accuracies under causal and under the mask.
    """

    settings: RecoverySettings
    recipe: str
    seed: int | str
    mask: str
    task: str
    n: int
    clusters: int
    design_effect: float
    exposure: str
    baseline: Condition
    ablated: Condition | None
    finetuned: Sequence[Condition]
    seeds_p: float | None
    b: float
    a: float | None
    p: float
    damage: Difference | None
    change: Difference
    recovered: Ratio | None
    control: str | None
    controls: Sequence[Condition]
    c: float | None
    d: float | None
    net: Ratio | None

    @property
    def conditions(self) -> list[Condition]:
        """All conditions of the row."""
        ablated = [] if self.ablated is None else [self.ablated]
        return [self.baseline, *ablated, *self.finetuned, *self.controls]

    @property
    def net_status(self) -> str | None:
        """The status of net recovery; None under `causal`."""
        if self.ablated is None:
            return None
        return NO_CONTROL if self.net is None else self.net.status

    @property
    def gain(self) -> Difference | None:
        """P - A, under an ablated mask."""
        return self.change if self.ablated else None

    @property
    def side_effect(self) -> Difference | None:
        """P - B, under `causal`."""
        return None if self.ablated else self.change

    @property
    def retention(self) -> float | None:
        """P / B; None if B is 0."""
        return self.p / self.b if self.b else None

    @property
    def criteria_met(self) -> bool | None:
        """Whether P / B and P - A reach the study's criteria; None under `causal`."""
        if self.gain is None:
            return None
        criteria = self.settings.criteria
        enough = (self.retention or 0) >= criteria.retention
        return bool(enough and self.gain.value >= criteria.gain)


def seeds_disagree(p: float | None) -> bool | None:
    """Whether seeds differ by more than the draw of items explains; None for one seed."""
    return None if p is None else p < SEEDS_DISAGREE_BELOW


@dataclass(frozen=True)
class Column:
    """One column.

    formula: the formula that the column is, or belongs to.
    roles: the conditions that it is computed from, among `baseline`, `ablated`, `after` and the
        control's two.
    is_value: False for the ends of an interval, a p value, a status or a hash of the formula.
    """

    name: str
    meaning: str
    compute: Callable[[Comparison], Value]
    kind: Kind = "number"
    formula: str | None = None
    roles: tuple[str, ...] = ("baseline", "ablated", "after", "after_against")
    is_value: bool = True


def _difference(
    name: str,
    meaning: str,
    formula: str,
    roles: tuple[str, ...],
    difference: Callable[[Comparison], Difference | None],
) -> list[Column]:
    """The columns of a difference: its value, its interval and its p value."""

    def column(
        end: str, meaning: str, read: Callable[[Difference], float], kind: Kind = "number"
    ) -> Column:
        def compute(row: Comparison) -> Value:
            found = difference(row)
            return None if found is None else read(found)

        return Column(name + end, meaning, compute, kind, formula, roles, is_value=not end)

    return [
        column("", meaning, lambda found: found.value),
        column("_low", f"Lower end of the interval of `{name}`.", lambda found: found.interval.low),
        column(
            "_high", f"Upper end of the interval of `{name}`.", lambda found: found.interval.high
        ),
        column(
            "_p", f"Two-sided p value of `{name}`; it is never 0.", lambda found: found.p, "p value"
        ),
    ]


def _ratio(
    name: str,
    meaning: str,
    formula: str,
    roles: tuple[str, ...],
    ratio: Callable[[Comparison], Ratio | None],
    meaning_of_status: str,
    status: Callable[[Comparison], Value],
) -> list[Column]:
    """The columns of a ratio: its value, its interval, and its status."""

    def column(end: str, meaning: str, read: Callable[[Ratio], float | None]) -> Column:
        def compute(row: Comparison) -> Value:
            found = ratio(row)
            return None if found is None else read(found)

        return Column(name + end, meaning, compute, "number", formula, roles, is_value=not end)

    def end_of(ratio: Ratio, end: int) -> float | None:
        return None if ratio.interval is None else ratio.interval[end]

    return [
        column("", meaning, lambda found: found.value),
        column("_low", f"Lower end of the interval of `{name}`.", lambda r: end_of(r, 0)),
        column("_high", f"Upper end of the interval of `{name}`.", lambda r: end_of(r, 1)),
        Column(f"{name}_status", meaning_of_status, status, "words", formula, roles, False),
    ]


_TABLE = (
    Column("study", "Name of the study.", lambda row: row.settings.study, "words"),
    Column("recipe", "Recipe of the finetuned model.", lambda row: row.recipe, "words"),
    Column("seed", "Seed of the finetuning, or `all`.", lambda row: row.seed, "words"),
    Column("mask", "Mask or intervention while scoring A and P.", lambda row: row.mask, "words"),
    Column("task", "Task, or the macro of a protocol.", lambda row: row.task, "words"),
    Column(
        "train_leaks",
        "Whether the leak audit found that the training mask shows the model its targets.",
        lambda row: any(condition.train_leaks for condition in row.finetuned),
        "words",
    ),
    Column(
        "eval_leaks",
        "Whether the leak audit found that a mask while scoring shows the model its targets.",
        lambda row: any(condition.eval_leaks for condition in row.conditions),
        "words",
    ),
    Column(
        "comparable",
        "`true`, or `false:` and what differed when B, A and P were measured.",
        lambda row: REHEARSAL if row.settings.rehearsal else comparable(row.conditions),
        "words",
    ),
    Column(
        "exposure",
        "`trained` if the recipe's finetuning records hold the family of the task, `held_out` if "
        "not, `mixed` for a macro over tasks of both kinds.",
        lambda row: row.exposure,
        "words",
    ),
    Column("n", "Number of items.", lambda row: row.n),
    Column(
        "clusters",
        "Number of independent draws among the items: of clusters, or else of items.",
        lambda row: row.clusters,
    ),
    Column(
        "design_effect",
        "Variance of `gain` or `side_effect` that is due to items, over that of independent items.",
        lambda row: row.design_effect,
        formula="P - A",
        roles=("baseline", "ablated", "after"),
    ),
    Column(
        "baseline",
        "B, the accuracy of the base under `causal`.",
        lambda row: row.b,
        formula="B",
        roles=("baseline",),
    ),
    Column(
        "ablated",
        "A, the accuracy of the base under the mask.",
        lambda row: row.a,
        formula="A",
        roles=("ablated",),
    ),
    Column(
        "after",
        "P, the accuracy of the finetuned model under the mask.",
        lambda row: row.p,
        formula="P",
        roles=("after",),
    ),
    Column(
        "seeds_p",
        "p value of the hypothesis that P is equal in all seeds; empty in rows of one seed.",
        lambda row: row.seeds_p,
        "p value",
        formula="P",
        roles=("after",),
        is_value=False,
    ),
    Column(
        "seeds_disagree",
        f"Whether `seeds_p` is below {SEEDS_DISAGREE_BELOW}: the seeds differ by more than the "
        "draw of items explains.",
        lambda row: seeds_disagree(row.seeds_p),
        "words",
        formula="P",
        roles=("after",),
        is_value=False,
    ),
    *_difference(
        "damage",
        "A - B, which is negative when the mask loses accuracy.",
        "A - B",
        ("baseline", "ablated"),
        lambda row: row.damage,
    ),
    *_difference(
        "gain",
        "P - A, the change of accuracy under an ablated mask.",
        "P - A",
        ("ablated", "after"),
        lambda row: row.gain,
    ),
    *_difference(
        "side_effect",
        "P - B under `causal`, the change of accuracy in ordinary use.",
        "P - B",
        ("baseline", "after"),
        lambda row: row.side_effect,
    ),
    Column(
        "retention",
        "P / B.",
        lambda row: row.retention,
        formula="P / B",
        roles=("baseline", "after"),
    ),
    Column(
        "recovery_ratio",
        "P / B under its published name.",
        lambda row: row.retention,
        formula="P / B",
        roles=("baseline", "after"),
    ),
    *_ratio(
        "recovered",
        "(P - A) / (B - A), the fraction of the lost accuracy that finetuning gives back.",
        "(P - A) / (B - A)",
        ("baseline", "ablated", "after"),
        lambda row: row.recovered,
        "`estimable`, or `not_estimable` if nothing was lost or the interval is unbounded; "
        "`no_samples` in published rows.",
        lambda row: None if row.recovered is None else row.recovered.status,
    ),
    Column(
        "control",
        "Recipe of the control: equal records, order, steps and seeds, trained under `causal`.",
        lambda row: row.control,
        "words",
    ),
    Column(
        "control_causal",
        "C, the accuracy of the control under `causal`.",
        lambda row: row.c,
        formula="C",
        roles=("control_causal",),
    ),
    Column(
        "control_ablated",
        "D, the accuracy of the control under the mask.",
        lambda row: row.d,
        formula="D",
        roles=("control_ablated",),
    ),
    *_ratio(
        "net_recovered",
        "(P - D) / (C - D), the fraction of the gap between equally finetuned models that training "
        "under the ablation closes.",
        "(P - D) / (C - D)",
        ("after", "control_causal", "control_ablated"),
        lambda row: row.net,
        "`estimable`, `not_estimable`, or `no_control`.",
        lambda row: row.net_status,
    ),
    Column(
        "criteria_met",
        "Whether P / B and P - A reach the study's `criteria`.",
        lambda row: row.criteria_met,
        "words",
    ),
    Column(
        "baseline_manifest",
        "sha256 of the manifest of B.",
        lambda row: row.baseline.manifest,
        "hash",
        formula="B",
        roles=("baseline",),
        is_value=False,
    ),
    Column(
        "ablated_manifest",
        "sha256 of the manifest of A.",
        lambda row: row.ablated.manifest if row.ablated else None,
        "hash",
        formula="A",
        roles=("ablated",),
        is_value=False,
    ),
    Column(
        "after_manifest",
        "sha256 of the manifest of P; empty if the row is over all seeds.",
        lambda row: None if row.seed == ALL_SEEDS else row.finetuned[0].manifest,
        "hash",
        formula="P",
        roles=("after",),
        is_value=False,
    ),
)
COLUMN = {column.name: column for column in _TABLE}
COLUMNS = list(COLUMN)
