"""Early stopping: when a training ends before its last step, and why.

A stop by design is a success with a reason; REASONS lists all reasons. This module only computes
with numbers of the training log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ablation.config.fields import NoLearning, Plateau
from ablation.config.study import Leak

MAX_STEPS, NO_LEARNING, PLATEAU = "max_steps", "no_learning", "plateau"
NON_FINITE, LEAK_ALARM = "non_finite", "leak_alarm"
REASONS = (MAX_STEPS, NO_LEARNING, PLATEAU, NON_FINITE, LEAK_ALARM)


@dataclass
class Stops:
    """The early stopping of one training.

    no_learning, plateau, leak: the rules of the recipe's `stops:` block; None switches a rule off.
    reason: why the training ends, or None while it goes on. The first reason stays.
    leak_alarms: the steps at which the rule `leak` was met.

    The state depends only on the log entries seen. To resume a training, show its log again.
    """

    no_learning: NoLearning | None = None
    plateau: Plateau | None = None
    leak: Leak | None = None
    first_loss: float | None = None
    best_loss: float = math.inf
    best_eval: float = math.inf
    evaluations_without_gain: int = 0
    leak_alarms: list[int] = field(default_factory=list)
    reason: str | None = None

    def observe(self, entry: Mapping[str, Any]) -> str | None:
        """Take in one entry of the Trainer's log; return the reason to stop, if there is one.

        An entry has `step`, and `loss` or `eval_loss` with the probe losses.
        """
        reason = self.reason
        if "loss" in entry:
            reason = reason or self.after_loss(entry["step"], entry["loss"], entry.get("grad_norm"))
        if "eval_loss" in entry:
            reason = reason or self.after_evaluation(entry["step"], entry["eval_loss"])
            losses = entry["probe_loss_train_mask"], entry["probe_loss_causal"]
            reason = self.after_probe(entry["step"], *losses) if reason is None else reason
        self.reason = reason
        return reason

    def after_loss(self, step: int, loss: float, grad_norm: float | None) -> str | None:
        """The reason to stop after a logged training loss (nats a token) and gradient norm."""
        if not math.isfinite(loss) or (grad_norm is not None and not math.isfinite(grad_norm)):
            return NON_FINITE
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.best_loss = min(self.best_loss, loss)
        rule = self.no_learning
        if rule is None or step < rule.after_steps:
            return None
        return NO_LEARNING if self.first_loss - self.best_loss < rule.min_improvement else None

    def after_evaluation(self, step: int, eval_loss: float) -> str | None:
        """The reason to stop after an evaluation; before `min_steps` none is counted."""
        if not math.isfinite(eval_loss):
            return NON_FINITE
        rule = self.plateau
        better = eval_loss < self.best_eval - (rule.min_delta if rule else 0.0)
        self.best_eval = min(self.best_eval, eval_loss) if not better else eval_loss
        if rule is None or step < rule.min_steps:
            return None
        self.evaluations_without_gain = 0 if better else self.evaluations_without_gain + 1
        return PLATEAU if self.evaluations_without_gain >= rule.patience else None

    def after_probe(self, step: int, train_mask_loss: float, causal_loss: float) -> str | None:
        """The reason to stop after both probe losses: under the training mask and under `causal`.

        A mask that shows no target cannot make the same examples much easier than `causal` does. A
        mask that leaks makes them trivial (published losses: 0.070 against 1.023).
        """
        if not (math.isfinite(train_mask_loss) and math.isfinite(causal_loss)):
            return NON_FINITE  # and no evidence of a leak
        rule = self.leak
        if rule is None or causal_loss - train_mask_loss < rule.min_gap:
            return None  # both near zero: the model predicts the response from the prompt
        if train_mask_loss >= rule.ratio * causal_loss:
            return None
        self.leak_alarms.append(step)
        return LEAK_ALARM if rule.on_leak == "stop" else None
