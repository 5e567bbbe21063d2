"""The optimizers that a finetuning can use, and the modules that only some finetunings use."""

from __future__ import annotations

from collections.abc import Mapping

_STOCHASTIC_ADAFACTOR = tuple(
    f"ablation.training.optimizers.{name}"
    for name in ("stochastic_adafactor", "adafactor_torch", "adafactor_triton")
)
_MODULES = {
    "adamw_torch": (),
    "adamw_torch_fused": (),
    "adafactor": _STOCHASTIC_ADAFACTOR,  # for weights that ranks share
    "sgd": (),
    "adafactor_bf16": _STOCHASTIC_ADAFACTOR,
    "adafactor_plain": (),
}
OPTIMIZERS = tuple(_MODULES)
# The optimizers for weights that are sharded over several GPUs.
SHARDED_OPTIMIZERS = tuple(name for name in OPTIMIZERS if name != "adafactor_plain")
ADAPTERS = "ablation.interventions.adapters"


def unused_modules(config: Mapping) -> frozenset[str]:
    """The modules of optimizers and of adapters that a job does not use.

    `config` is the configuration in the job's fingerprint. Code hashes leave these modules out, so
    that a change of one optimizer makes only the trainings with this optimizer stale. For a job
    whose configuration names no optimizer, no module is left out.
    """
    named = [config.get("recipe"), *(config.get("recipes") or {}).values()]
    recipes = [recipe for recipe in named if isinstance(recipe, Mapping)]
    used = {str(recipe.get("optimizer")) for recipe in recipes}
    if not used or not used <= set(_MODULES):
        return frozenset()
    every = {ADAPTERS, *(module for modules in _MODULES.values() for module in modules)}
    adapted = [ADAPTERS] if any(recipe.get("adapter") for recipe in recipes) else []
    return frozenset(every - {*adapted, *(m for name in used for m in _MODULES[name])})
