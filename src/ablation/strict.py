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
