"""Shared pydantic base classes and field types.

A validator between two fields belongs to the later one, because pydantic checks fields in the order
in which a class declares them and hands the earlier ones over in `ValidationInfo.data`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from ablation.provenance.energy import region

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy accepts no larger seed
Item = TypeVar("Item", str, int)


def described_field(meaning: str, **limits: Any) -> Any:
    """Return a required field with its meaning, a whole sentence for manuals and editors.

    `limits` are those of `pydantic.Field`, such as `ge=0`.
    """
    return Field(description=meaning, **limits)


class OneOf:
    """Annotates a text that must be one of a closed set of names.

    `Annotated[str, OneOf(MASKS)]` validates like `Literal["causal", ...]`, but type checkers accept
    names that are computed from a table.
    """

    def __init__(self, names: Collection[str]):
        self.names = list(names)

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.literal_schema(self.names)


def is_null(value: object) -> bool:
    """For `exclude_if`: a key that is null stays out of fingerprints, as if there were no key."""
    return value is None


def is_off(value: object) -> bool:
    """As `is_null`, for a key that is false."""
    return value is False


class Strict(BaseModel):
    """A block that rejects unknown keys, wrong types, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def without_repeats(values: list[Item], kind: str) -> list[Item]:
    """Return `values`; raise ValueError if the list names anything twice."""
    again = sorted({value for value in values if values.count(value) > 1})
    if again:
        raise ValueError(f"{kind} {', '.join(map(str, again))} is named twice")
    return values


def divides(other: str) -> Callable[[int, ValidationInfo], int]:
    """Return a validator for a field that must be a divisor of the earlier field `other`."""

    def check(value: int, info: ValidationInfo) -> int:
        if info.data.get(other, value) % value:
            raise ValueError(f"no divisor of {other} {info.data[other]}")
        return value

    return check


def leaves_some(other: str) -> Callable[[int, ValidationInfo], int]:
    """Return a validator for a percentage that must stay below 100 together with `other`."""

    def check(value: int, info: ValidationInfo) -> int:
        if value + info.data.get(other, 0) >= 100:
            raise ValueError(
                f"with {other} {info.data[other]} nothing is left to train on: both together must "
                "be below 100"
            )
        return value

    return check


class Shape(Strict):
    """The size of a decoder with random weights."""

    width: int = described_field("Width of the residual stream.", ge=1)
    feed_forward: int = described_field("Inner width of a feed-forward block.", ge=1)
    layers: int = described_field(
        "Number of layers, each of one attention and one feed-forward block.", ge=1
    )
    heads: int = described_field("Number of attention heads.", ge=1)
    head_dim: int = described_field(
        "Dimensions of a head; rotary positions need an even number.", ge=2, multiple_of=2
    )


class GroupedShape(Shape):
    """The size of a decoder in which several queries share one key and value."""

    key_value_heads: int = described_field(
        "Number of heads of keys and values; it must divide `heads`.", ge=1
    )

    _shared_evenly = field_validator("key_value_heads")(divides("heads"))


class Learning(Strict):
    """The fields that every kind of training has."""

    max_steps: int = described_field("Number of optimizer steps.", ge=1)
    learning_rate: float = described_field("Peak learning rate.", gt=0)
    weight_decay: float = described_field(
        "Weight decay, for all weights but norms and biases.", ge=0
    )
    warmup_steps: int = described_field(
        "Steps in which the learning rate rises to its peak; they are part of `max_steps`.", ge=0
    )
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = described_field(
        "Schedule of the learning rate after the warm-up."
    )
    adam_beta2: float = described_field(
        "Adam's decay rate of squared gradients; a short training needs a small one.", gt=0, lt=1
    )
    max_grad_norm: float = described_field("Norm to which gradients are clipped.", gt=0)
    log_steps: int = described_field("Steps between two points of the loss curve.", ge=1)
    save_steps: int = described_field(
        "Steps between two checkpoints to resume from; it must be a multiple of `log_steps`.", ge=1
    )

    @field_validator("warmup_steps")
    @classmethod
    def _warms_up_in_time(cls, warmup: int, info: ValidationInfo) -> int:
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
    def _saves_at_log_points(cls, save: int, info: ValidationInfo) -> int:
        if save % info.data.get("log_steps", save):
            raise ValueError(
                f"no multiple of log_steps {info.data['log_steps']}: a resumed training would log "
                "other means"
            )
        return save


def whole_micro_batches(micro: int, info: ValidationInfo) -> int:
    """Validate `micro_batch_examples`: the earlier `batch_examples` must be a multiple of it."""
    if info.data.get("batch_examples", micro) % micro:
        raise ValueError(f"batch_examples {info.data['batch_examples']} is no multiple of it")
    return micro


class NoLearning(Strict):
    """Stops a training whose loss does not fall."""

    after_steps: int = described_field("First step at which this rule can stop a training.", ge=1)
    min_improvement: float = described_field(
        "Nats by which the best logged loss must be below the first.", gt=0
    )


class Plateau(Strict):
    """Stops a training whose held-out loss no longer falls."""

    patience: int = described_field(
        "Number of evaluations in a row without a gain that end the training.", ge=1
    )
    min_delta: float = described_field("Nats by which a loss must fall to count as a gain.", ge=0)
    min_steps: int = described_field("Steps before which no evaluation counts.", ge=0)


def stop_in_time(stops: Any, info: ValidationInfo) -> Any:
    """Validate `stops`: each rule must be able to stop the training before `max_steps`.

    The fields `max_steps`, `log_steps` and `eval_steps` must come before `stops` in the class.
    """
    steps = info.data
    if not {"max_steps", "log_steps", "eval_steps"} <= steps.keys():
        return stops
    last, every, first = steps["max_steps"], steps["eval_steps"], {}
    if stops.no_learning:  # it is judged whenever a loss is logged
        first["no_learning"] = _next_multiple(stops.no_learning.after_steps, steps["log_steps"])
    if stops.plateau:  # the very first evaluation always counts as a gain
        counted = max(2 * every, _next_multiple(stops.plateau.min_steps, every))
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


def _next_multiple(least: int, step: int) -> int:
    return -(-least // step) * step


# Each is the name of its Python package, of its extra in pyproject.toml, and of its integration in
# transformers (`report_to`).
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
Trackers = Annotated[
    list[Annotated[str, OneOf(TRACKERS)]],
    AfterValidator(lambda names: without_repeats(names, "tracker")),
]


def _known_region(code: str) -> str:
    region(code)
    return code


Country = Annotated[str, AfterValidator(_known_region)]
