"""What blocks of the configuration are made of, where several are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no other


def key(meaning: str, **limits: Any) -> Any:
    """A key that must be given, and what it means."""
    return Field(description=meaning, **limits)


class Strict(BaseModel):
    """No unknown key, no text where a number belongs, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def divides(other: str) -> Callable[[int, ValidationInfo], int]:
    """A check of a key that must be a divisor of the key `other` before it."""

    def check(value: int, info: ValidationInfo) -> int:
        if info.data.get(other, value) % value:
            raise ValueError(f"no divisor of {other} {info.data[other]}")
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


class NoLearning(Strict):
    after_steps: int = key("judged from this step on", ge=1)
    min_improvement: float = key("nats: first logged loss minus the best", gt=0)


class Plateau(Strict):
    patience: int = key("evaluations in a row without gain", ge=1)
    min_delta: float = key("nats that count as a gain", ge=0)
    min_steps: int = key("nothing counts before this step", ge=0)
