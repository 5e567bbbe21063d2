"""Typed configuration: what a study's YAML may say, checked once, at load. No torch here.

A config file holds only what differs from the file that it `extends` (config/default.yaml unless
it says otherwise). Mappings are merged key by key, except `recipes`, `tasks` and `seeds`, which
replace what they extend: a study runs its own recipes, never a mixture.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ablation.names import METRICS, PROTOCOLS, RECIPES

Mask = Literal["causal", "prefill_bidir", "full_bidir"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
REPLACED_WHOLE = ("recipes", "tasks", "seeds")


class ConfigError(ValueError):
    """The configuration cannot be used; the message names every key at fault."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hardware(Strict):
    gpu: int = Field(ge=0)
    threads: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flex_attention"]


class NoLearning(Strict):
    after_steps: int = Field(ge=1)
    min_improvement: float = Field(gt=0)


class Plateau(Strict):
    patience: int = Field(ge=1)
    min_delta: float = Field(ge=0)
    min_steps: int = Field(ge=0)


class Leak(Strict):
    ratio: Fraction
    min_gap: float = Field(ge=0)
    on_leak: Literal["stop", "record"]


class StopRules(Strict):
    """When a training ends before its last step; null: never for this reason."""

    no_learning: NoLearning | None
    plateau: Plateau | None
    leak: Leak | None


class Finetune(Strict):
    """One recipe, whole: the `finetune:` block of the study with the recipe's own keys on top."""

    train_mask: Mask
    max_steps: int = Field(ge=1)
    batch_examples: int = Field(ge=1)
    micro_batch_examples: int = Field(ge=1)
    max_seq_len: int = Field(ge=8)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    schedule: Literal["linear", "cosine", "constant_with_warmup"]
    optimizer: str
    adam_beta2: Fraction
    max_grad_norm: float = Field(gt=0)
    log_steps: int = Field(ge=1)
    save_steps: int = Field(ge=1)
    eval_steps: int = Field(ge=1)
    eval_samples: int = Field(ge=1)
    heldout_fraction: Fraction
    stops: StopRules

    @model_validator(mode="after")
    def _fits(self) -> Finetune:
        if self.batch_examples % self.micro_batch_examples:
            raise ValueError(
                f"batch_examples {self.batch_examples} is no multiple of micro_batch_examples "
                f"{self.micro_batch_examples}"
            )
        if self.save_steps % self.log_steps:
            raise ValueError(
                f"save_steps {self.save_steps} is no multiple of log_steps {self.log_steps}: "
                f"a resumed training would log other means"
            )
        return self


class Evaluation(Strict):
    protocol: Literal[PROTOCOLS]
    tasks: list[str] = Field(min_length=1)
    metric: Literal[METRICS]
    limit: int | None = Field(ge=1)
    batch_tokens: int = Field(ge=64)
    row_tokens: int = Field(ge=32)
    logits_dtype: Literal["float32", "bfloat16"]

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("a task is named twice")
        return tasks

    @field_validator("tasks")
    @classmethod
    def _of_the_protocol(cls, tasks: list[str], info: ValidationInfo) -> list[str]:
        protocol = info.data.get("protocol")
        other = [t for t in tasks if t.startswith("published_") != (protocol == "published")]
        if protocol and other:
            raise ValueError(
                f"{', '.join(other)} cannot be scored under `protocol: {protocol}`: the tasks of "
                "`published` are those named published_*, all others belong to `lm_eval`"
            )
        return tasks


class Statistics(Strict):
    confidence: Fraction


class Criteria(Strict):
    retention: float
    gain: float


class Study(Strict):
    """One study, checked. `world` is a plain mapping: the micro-world checks its own knobs."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    base: str = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    hardware: Hardware
    world: dict
    finetune: dict
    recipes: dict[Literal[RECIPES], dict]
    evaluation: Evaluation
    statistics: Statistics
    criteria: Criteria
    keep_states: bool

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is named twice")
        return seeds

    def recipe(self, name: str) -> dict:
        """The recipe as a plain mapping with every key in place."""
        return Finetune.model_validate(merge(self.finetune, self.recipes[name])).model_dump()

    @property
    def pretrained_here(self) -> bool:
        return self.base == "pretrain"


def merge(base: Mapping, over: Mapping) -> dict:
    """`over` laid on `base`: mappings key by key, all else (and REPLACED_WHOLE) replaced."""
    out = dict(base)
    for key, value in over.items():
        both_mappings = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both_mappings and key not in REPLACED_WHOLE else value
    return out


def resolve(overrides: Mapping, folder: Path) -> dict:
    """Lay `overrides` on the chain of files that it extends, nearest last."""
    overrides = dict(overrides)
    chain, name = [overrides], overrides.pop("extends", "default.yaml")
    seen = set()
    while name is not None:
        file = folder / name
        if file in seen:
            raise ConfigError(f"{file} extends itself by way of {sorted(map(str, seen))}")
        if not file.is_file():
            raise ConfigError(f"`extends: {name}` names no file: {file} was not found")
        seen.add(file)
        content = yaml.safe_load(file.read_text()) or {}
        if not isinstance(content, dict):
            raise ConfigError(f"{file} holds {type(content).__name__}, a mapping was expected")
        name = content.pop("extends", None if file.name == "default.yaml" else "default.yaml")
        chain.append(content)
    resolved: dict = {}
    for layer in reversed(chain):
        resolved = merge(resolved, layer)
    return resolved


def load_study(overrides: Mapping, folder: str | Path = "config") -> Study:
    """The study that `overrides` (a config file's content, or nothing) describes.

    Raises ConfigError with one line per fault: the key, what was found, what was expected.
    """
    resolved = resolve(overrides, Path(folder))
    try:
        study = Study.model_validate(resolved)
    except ValidationError as error:
        raise ConfigError(_explain(error, Study)) from None
    for name in study.recipes:
        try:
            study.recipe(name)
        except ValidationError as error:
            raise ConfigError(_explain(error, Finetune, f"recipes.{name}.")) from None
    return study


def _explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    lines = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"]))
        line = f"  {prefix}{key}: {fault['msg']}"
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), _field_names(model), n=1)
            line = f"  {prefix}{key}: unknown key" + (
                f", did you mean `{near[0]}`?" if near else ""
            )
        elif fault["type"] != "missing":
            line += f" (found {fault['input']!r})"
        lines.append(line)
    return "the configuration cannot be used (config/README.md explains every key):\n" + "\n".join(
        lines
    )


def _field_names(model: type[BaseModel]) -> set[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= _field_names(field.annotation)
    return names
