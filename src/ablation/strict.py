"""What blocks of the configuration are made of, where several are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no other


def key(meaning: str, **limits: Any) -> Any:
    """A key that must be given, and what it means."""
    return Field(description=meaning, **limits)


class Strict(BaseModel):
    """No unknown key, no text where a number belongs, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def without_repeats(values: list, kind: str) -> list:
    """A list that names nothing twice. Raises ValueError for one that does."""
    again = sorted({value for value in values if values.count(value) > 1})
    if again:
        raise ValueError(f"{kind} {', '.join(map(str, again))} is named twice")
    return values


def divides(other: str) -> Callable[[int, ValidationInfo], int]:
    """A check of a key that must be a divisor of the key `other` before it."""

    def check(value: int, info: ValidationInfo) -> int:
        if info.data.get(other, value) % value:
            raise ValueError(f"no divisor of {other} {info.data[other]}")
        return value

    return check


def leaves_some(other: str) -> Callable[[int, ValidationInfo], int]:
    """A check of a percentage that must leave something beside `other`, the one before it."""

    def check(value: int, info: ValidationInfo) -> int:
        if value + info.data.get(other, 0) >= 100:
            raise ValueError(
                f"with {other} {info.data[other]} nothing is left to train on: both together must "
                "be below 100"
            )
        return value

    return check


class Shape(Strict):
    """Of a decoder of random weights."""

    width: int = key("of the residual stream", ge=1)
    feed_forward: int = key("width between the two halves of a feed-forward block", ge=1)
    layers: int = key("attention and feed-forward blocks", ge=1)
    heads: int = key("of attention", ge=1)
    head_dim: int = key("dimensions a head, even for rotary positions", ge=2, multiple_of=2)


class GroupedShape(Shape):
    """Of a decoder whose queries share keys and values."""

    key_value_heads: int = key("of keys and values; a divisor of heads", ge=1)

    _shared_evenly = field_validator("key_value_heads")(divides("heads"))


class Learning(Strict):
    """What every training is told."""

    max_steps: int = key("optimizer steps", ge=1)
    learning_rate: float = key("at its highest", gt=0)
    weight_decay: float = key("of everything but norms and biases", ge=0)
    warmup_steps: int = key("steps up to the learning rate, of max_steps", ge=0)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = key("after the warm-up")
    adam_beta2: float = key("short trainings want a short memory", gt=0, lt=1)
    max_grad_norm: float = key("gradients are clipped to it", gt=0)
    log_steps: int = key("steps between two points of the loss curve", ge=1)
    save_steps: int = key("steps between two states to resume from; a multiple of log_steps", ge=1)

    @field_validator("warmup_steps")
    @classmethod
    def _warm_in_time(cls, warmup: int, info: ValidationInfo) -> int:
        if warmup >= info.data.get("max_steps", warmup + 1):
            raise ValueError(
                f"the training has only {info.data['max_steps']} steps (max_steps): give fewer"
            )
        return warmup

    @field_validator("log_steps")
    @classmethod
    def _logs_in_time(cls, log: int, info: ValidationInfo) -> int:
        if log > info.data.get("max_steps", log):
            raise ValueError(f"beyond max_steps {info.data['max_steps']}: no loss would be logged")
        return log

    @field_validator("save_steps")
    @classmethod
    def _saves_whole_means(cls, save: int, info: ValidationInfo) -> int:
        if save % info.data.get("log_steps", save):
            raise ValueError(
                f"no multiple of log_steps {info.data['log_steps']}: a resumed training would log "
                "other means"
            )
        return save


def whole_micro_batches(micro: int, info: ValidationInfo) -> int:
    """A check of `micro_batch_examples`, which a step's `batch_examples` are made of."""
    if info.data.get("batch_examples", micro) % micro:
        raise ValueError(f"batch_examples {info.data['batch_examples']} is no multiple of it")
    return micro


class NoLearning(Strict):
    after_steps: int = key("judged from this step on", ge=1)
    min_improvement: float = key("nats: first logged loss minus the best", gt=0)


class Plateau(Strict):
    patience: int = key("evaluations in a row without gain", ge=1)
    min_delta: float = key("nats that count as a gain", ge=0)
    min_steps: int = key("nothing counts before this step", ge=0)


def stop_in_time(stops: Any, info: ValidationInfo) -> Any:
    """A check of `stops`, which come after the steps that say when a rule first could end it."""
    steps = info.data
    if not {"max_steps", "log_steps", "eval_steps"} <= steps.keys():
        return stops
    last, every, first = steps["max_steps"], steps["eval_steps"], {}
    if stops.no_learning:  # judged when a loss is logged
        first["no_learning"] = _multiple(stops.no_learning.after_steps, steps["log_steps"])
    if stops.plateau:  # the first evaluation of all is never without gain
        counted = max(2 * every, _multiple(stops.plateau.min_steps, every))
        first["plateau"] = counted + every * (stops.plateau.patience - 1)
    if getattr(stops, "leak", None):
        first["leak"] = every
    late = {rule: step for rule, step in first.items() if step > last}
    if late:
        found = ", ".join(f"{rule} at step {step}" for rule, step in late.items())
        raise ValueError(
            f"{found} at the earliest, beyond max_steps {last}: it would never stop; give fewer, "
            f"or {', '.join(f'{rule}: null' for rule in late)}"
        )
    return stops


def _multiple(least: int, step: int) -> int:
    return -(-least // step) * step
