"""What every block of the configuration is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no other


def key(meaning: str, **limits: Any) -> Any:
    """A key that must be given, and what it means."""
    return Field(description=meaning, **limits)


class Strict(BaseModel):
    """No unknown key, no text where a number belongs, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Shape(Strict):
    """Of a decoder of random weights."""

    width: int = key("of the residual stream", ge=1)
    feed_forward: int = key("width between the two halves of a feed-forward block", ge=1)
    layers: int = key("attention and feed-forward blocks", ge=1)
    heads: int = key("of attention", ge=1)
    head_dim: int = key("dimensions a head, even for rotary positions", ge=2, multiple_of=2)
