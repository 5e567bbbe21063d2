"""What a study can take away from a model besides its mask: the settings of each kind. No torch.

`ablation.interventions` does what these settings say, one file a kind. A kind of another
distribution is a subclass of `InterventionSettings` that is named by an entry point of the group
GROUP.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter, field_validator

from ablation.config.architectures import positions, text_part
from ablation.config.fields import Strict, described_field

GROUP = "ablation.interventions"
PROTOCOL = "ablation.interventions.protocol"  # the module of the base class of implementations
BEYOND = 3  # tokens behind a window, with which the audit sees where it ends
NAME = r"^[a-z][a-z0-9]*$"  # of an intervention in a study, and a word in names of variants

InterventionName = Annotated[str, Field(pattern=NAME)]
LayerNumber = Annotated[int, Field(ge=0)]
Head = Annotated[list[LayerNumber], Field(min_length=2, max_length=2)]


class InterventionSettings(Strict):
    """The settings of one kind of intervention.

    implementation: `module:class` of the code that does it (`ablation.interventions.protocol`).
    liftable: whether a model that was trained under it can be scored without it.
    in_weights: whether saved weights and config.json hold it, so that plain transformers computes
        the model as it is.
    shardable: whether weights that several GPUs share can be trained under it.
    mergeable: False if it changes the matrices of all layers in a way that a merged adapter undoes.
    """

    implementation: ClassVar[str]
    liftable: ClassVar[bool] = False
    in_weights: ClassVar[bool] = False
    shardable: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    kind: str

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        """(key, text) of what the model of a config.json makes impossible, or None."""
        return None


class Window(InterventionSettings):
    """A sliding window: a token sees no token that is farther away."""

    implementation: ClassVar[str] = "ablation.interventions.window:SlidingWindow"
    liftable: ClassVar[bool] = True
    shardable: ClassVar[bool] = True
    kind: Literal["window"]
    tokens: int = described_field(
        "Tokens that a token sees, itself and those before it, counted in positions.", ge=1
    )
    when: Literal["prefill", "everywhere"] = described_field(
        "Whether only tokens of the prompt have the window, or those of the continuation too."
    )

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        text = text_part(config)
        own = text.get("use_sliding_window", True) and (text.get("sliding_window") or None)
        for what, limit in (("reads", positions(config)), ("has a window of its own of", own)):
            if type(limit) is int and self.tokens > limit - BEYOND:
                return "tokens", (
                    f"{self.tokens} found, but the base {what} {limit} tokens, and {BEYOND} beyond "
                    "the window are needed to see it in force"
                )
        return None


class DropLayers(InterventionSettings):
    """Whole layers are removed, attention and feed-forward block."""

    implementation: ClassVar[str] = "ablation.interventions.drop_layers:DroppedLayers"
    in_weights: ClassVar[bool] = True
    kind: Literal["drop_layers"]
    layers: list[LayerNumber] = described_field(
        "Layers that are removed, counted from 0.", min_length=1
    )

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        count = layer_count(config)
        if repeated := _repeated(self.layers):
            return "layers", f"{repeated} is named twice"
        if count is not None and len(self.layers) >= count:
            return "layers", f"all {count} layers of the base would be removed: leave one at least"
        return _missing_layer("layers", self.layers, config)


class Heads(InterventionSettings):
    """Attention heads are removed: nothing that they compute reaches the residual stream."""

    implementation: ClassVar[str] = "ablation.interventions.heads:RemovedHeads"
    in_weights: ClassVar[bool] = True
    kind: Literal["heads"]
    heads: list[Head] = described_field(
        "Heads that are removed, each as [layer, head], counted from 0.", min_length=1
    )

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        count = _first(config, "num_attention_heads", "n_head", "n_heads", "num_heads")
        if repeated := _repeated([tuple(head) for head in self.heads]):
            return "heads", f"{list(repeated)} is named twice"
        for layer, head in self.heads:
            if count is not None and head >= count:
                found = f"[{layer}, {head}] found"
                return "heads", f"{found}, but a layer of the base has heads 0 to {count - 1}"
        return _missing_layer("heads", [layer for layer, _ in self.heads], config)


class Positions(InterventionSettings):
    """Positions are removed: every token is computed as if it stood at position 0."""

    implementation: ClassVar[str] = "ablation.interventions.positions:RemovedPositions"
    liftable: ClassVar[bool] = True
    kind: Literal["positions"]


class Round(InterventionSettings):
    """Weights of the layers are rounded to few levels."""

    implementation: ClassVar[str] = "ablation.interventions.rounding:RoundedWeights"
    in_weights: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False
    kind: Literal["round"]
    bits: int = described_field(
        "Bits of a weight: it has 2^bits - 1 levels, from -scale to scale.", ge=2, le=8
    )
    group: int | None = described_field(
        "Number of neighbouring weights of an output that share a scale; null for all of them.",
        ge=2,
    )

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        for name in ("hidden_size", "n_embd", "d_model", "intermediate_size"):
            width = text_part(config).get(name)
            if self.group and isinstance(width, int) and width % self.group:
                return "group", f"{self.group} found, which does not divide {name} {width}"
        return None


class Prune(InterventionSettings):
    """The smallest weights of each matrix of the layers become 0, and stay it."""

    implementation: ClassVar[str] = "ablation.interventions.prune:PrunedWeights"
    in_weights: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False
    kind: Literal["prune"]
    sparsity: float = described_field("Share of the weights of a matrix that become 0.", gt=0, lt=1)
    structure: Literal["weights", "2:4", "outputs"] = described_field(
        "What becomes 0 together: single weights, two of four neighbouring weights (sparsity 0.5), "
        "or all weights of an output."
    )

    @field_validator("structure", mode="before")
    @classmethod
    def _no_time_of_day(cls, found: Any) -> Any:
        """YAML reads 2:4 without quotes as 124 minutes."""
        return "2:4" if found == 124 else found

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        if self.structure == "2:4" and self.sparsity != 0.5:
            return "sparsity", f"{self.sparsity} found, but two of four weights are 0.5"
        return None


class Norm(InterventionSettings):
    """Norms of the layers become a multiplication by a constant vector."""

    implementation: ClassVar[str] = "ablation.interventions.norm:RemovedNorms"
    kind: Literal["norm"]
    layers: list[LayerNumber] | None = described_field(
        "Layers whose norms are removed, counted from 0; null for all.", min_length=1
    )

    def problem(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        if repeated := _repeated(self.layers or []):
            return "layers", f"{repeated} is named twice"
        return _missing_layer("layers", self.layers or [], config)


def layer_count(config: Mapping[str, Any]) -> int | None:
    """How many layers the model of a config.json has, or None if the file does not say it."""
    return _first(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    text = text_part(config)
    return next((text[name] for name in names if isinstance(text.get(name), int)), None)


def _missing_layer(
    key: str, layers: list[int], config: Mapping[str, Any]
) -> tuple[str, str] | None:
    count = layer_count(config)
    missing = [layer for layer in layers if count is not None and layer >= count]
    if not missing:
        return None
    return key, f"layer {missing[0]} found, but the base has layers 0 to {(count or 0) - 1}"


def _repeated(values: list) -> Any:
    return next((value for value in values if values.count(value) > 1), None)


# ---- the registry of settings ------------------------------------------------------------------


BUILT_IN: tuple[type[InterventionSettings], ...] = (
    *(Window, DropLayers, Heads, Positions, Round, Prune, Norm),
)
KINDS: dict[str, type[InterventionSettings]] = {
    get_args(settings.model_fields["kind"].annotation)[0]: settings for settings in BUILT_IN
}
UNUSABLE: dict[str, str] = {}  # {kind: why the entry point that provides it cannot be used}
_POINTS: dict[str, EntryPoint] = {}  # {kind: the entry point that provides it}


def _problem(point: EntryPoint) -> str | None:
    """What is wrong with a kind of another distribution; one that is right becomes usable."""
    try:
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, InterventionSettings)):
            return f"it is {found!r}, and no subclass of {__name__}.InterventionSettings"
        found.model_rebuild()
    except Exception as error:  # whatever a module of others raises when it is imported
        return f"{type(error).__name__}: {error}"
    if get_args(kind := found.model_fields["kind"].annotation) != (point.name,):
        return f"`kind` of {found.__name__} is {kind}, and Literal[{point.name!r}] was expected"
    named = getattr(found, "implementation", None)
    module, _, name = named.partition(":") if isinstance(named, str) else ("", "", "")
    if not (module and name):
        return f"`implementation` of {found.__name__} is {named!r}, and `module:class` was expected"
    if find_spec(module.partition(".")[0]) is None:
        return f"there is no module {module}, which `implementation` of {found.__name__} names"
    if point.name in KINDS:
        return "there is another kind of this name: register one of them by another"
    KINDS[point.name] = found
    return None


def _add(point: EntryPoint) -> None:
    if problem := _problem(point):
        by = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
        UNUSABLE[point.name] = (
            f"kind {point.name!r} found, but its entry point {point.name} = {point.value} of {by} "
            f"cannot be used: {problem}. docs/interventions.md has a right one"
        )
    _POINTS.setdefault(point.name, point)


for _point in entry_points(group=GROUP):
    _add(_point)

if TYPE_CHECKING:
    AnyIntervention = InterventionSettings
else:
    AnyIntervention = Annotated[reduce(or_, KINDS.values()), Field(discriminator="kind")]
_ADAPTER: TypeAdapter[InterventionSettings] = TypeAdapter(AnyIntervention)


def read_settings(values: Mapping[str, Any]) -> InterventionSettings:
    """The settings of one intervention, as a fingerprint holds them. Raises ValidationError."""
    return _ADAPTER.validate_python(dict(values))


def distribution_of(values: Mapping[str, Any]) -> str | None:
    """The distribution that provides the kind of an intervention; None for a kind of this one."""
    point = _POINTS.get(str(values.get("kind")))
    return point.dist.name if point and point.dist else None


def modules_of(values: Mapping[str, Any] | None) -> frozenset[str]:
    """The module of this distribution that does an intervention, for the hash of a job's code.

    For a kind of another distribution, whose version is in the fingerprint, it is the protocol.
    """
    settings = KINDS.get(str((values or {}).get("kind")))
    if settings is None:
        return frozenset()
    module = settings.implementation.partition(":")[0]
    return frozenset([module if module.startswith("ablation.") else PROTOCOL])
