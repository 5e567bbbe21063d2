"""The metrics of accuracy, each a way to compare the choices of an item.

`ablation.analysis.metrics` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """An item counts as correct if its right choice has the highest score.

    The score of a choice is its log-likelihood, divided by a length of the choice.

    loglikelihood: the column of the sample rows with the log-likelihood, in nats.
    per: the column of the sample rows with the length; None for no division.
    shown: whether the report's page of accuracies has a column for the metric.
    by_lm_eval: whether lm_eval computes the metric too; the two values must then agree.
    """

    name: str
    per: str | None
    loglikelihood: str = "loglikelihood"
    shown: bool = True
    by_lm_eval: bool = False


_TABLE = (
    Metric("acc", per=None, by_lm_eval=True),
    Metric("acc_norm", per="characters", by_lm_eval=True),
    Metric("acc_bytes", per="bytes", by_lm_eval=True),
    Metric("acc_token", per="tokens"),
    Metric("acc_token_float32", "tokens", "loglikelihood_float32", shown=False),
)
METRIC = {metric.name: metric for metric in _TABLE}
METRICS = tuple(METRIC)
