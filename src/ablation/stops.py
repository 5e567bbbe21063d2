"""When a training ends before its last step, and why. Pure: numbers in, a reason out.

A stop by design is a success with a reason; every reason is a word from REASONS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_STEPS = "max_steps"
REASONS = (MAX_STEPS, "no_learning", "plateau", "non_finite", "leak_alarm")


@dataclass
class Stops:
    """Watches one training. `rules` is the recipe's `stops:` block; the methods return a reason.

    The whole state is what was seen, so that a resumed training goes on watching as if it had
    never been interrupted: let it see the log again.
    """

    rules: Mapping
    first_loss: float | None = None
    best_loss: float = math.inf
    best_eval: float = math.inf
    evaluations_without_gain: int = 0
    leak_alarms: list[int] = field(default_factory=list)
    reason: str | None = None  # why the training ends; the first reason stays

    def saw(self, entry: Mapping) -> str | None:
        """One entry of the Trainer's log: `step`, and `loss` or `eval_loss` with the probe's."""
        reason = self.reason
        if "loss" in entry:
            reason = reason or self.logged(entry["step"], entry["loss"], entry.get("grad_norm"))
        if "eval_loss" in entry:
            reason = reason or self.evaluated(entry["step"], entry["eval_loss"])
            losses = entry["probe_loss_train_mask"], entry["probe_loss_causal"]
            reason = self.probed(entry["step"], *losses) if reason is None else reason
        self.reason = reason
        return reason

    def logged(self, step: int, loss: float, grad_norm: float | None) -> str | None:
        """After a logged training loss (nats a token) and gradient norm."""
        if not math.isfinite(loss) or (grad_norm is not None and not math.isfinite(grad_norm)):
            return "non_finite"
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.best_loss = min(self.best_loss, loss)
        rule = self.rules["no_learning"]
        if rule is None or step < rule["after_steps"]:
            return None
        learned = self.first_loss - self.best_loss
        return "no_learning" if learned < rule["min_improvement"] else None

    def evaluated(self, step: int, eval_loss: float) -> str | None:
        """After an evaluation on held-out examples. Counts nothing before `min_steps`."""
        if not math.isfinite(eval_loss):
            return "non_finite"
        rule = self.rules["plateau"]
        better = eval_loss < self.best_eval - (rule["min_delta"] if rule else 0.0)
        self.best_eval = min(self.best_eval, eval_loss) if not better else eval_loss
        if rule is None or step < rule["min_steps"]:
            return None
        self.evaluations_without_gain = 0 if better else self.evaluations_without_gain + 1
        return "plateau" if self.evaluations_without_gain >= rule["patience"] else None

    def probed(self, step: int, train_mask_loss: float, causal_loss: float) -> str | None:
        """After both losses of the probe samples: under the training mask and under `causal`.

        A mask that shows no target cannot make the same samples this much easier than `causal`
        does; one that leaks makes them trivial (published: 0.070 against 1.023).
        """
        if not (math.isfinite(train_mask_loss) and math.isfinite(causal_loss)):
            return "non_finite"  # says nothing about a leak
        rule = self.rules["leak"]
        if rule is None or causal_loss - train_mask_loss < rule["min_gap"]:
            return None  # both near zero: what can be told from the prompt was learned
        if train_mask_loss >= rule["ratio"] * causal_loss:
            return None
        self.leak_alarms.append(step)
        return "leak_alarm" if rule["on_leak"] == "stop" else None
