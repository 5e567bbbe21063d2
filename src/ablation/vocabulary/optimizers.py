"""The optimizers that a finetuning can use, and the modules that only one of them uses."""

from __future__ import annotations

from collections.abc import Mapping

_MODULES = {
    "adamw_torch": (),
    "adamw_torch_fused": (),
    "adafactor": ("ablation.training.sharded_adafactor",),
    "sgd": (),
    "adafactor_bf16": (
        "ablation.training.stochastic_adafactor",
        "ablation.training.adafactor_triton",
    ),
    "adafactor_plain": (),
}
OPTIMIZERS = tuple(_MODULES)
# The optimizers for weights that are sharded over several GPUs in float32.
SHARDED_OPTIMIZERS = tuple(n for n in OPTIMIZERS if n not in ("adafactor_bf16", "adafactor_plain"))


def unused_modules(config: Mapping) -> frozenset[str]:
    """The modules of optimizers that a job does not use.

    `config` is the configuration in the job's fingerprint. Code hashes leave these modules out, so
    that a change of one optimizer makes only the trainings with this optimizer stale. For a job
    whose configuration names no optimizer, no module is left out.
    """
    recipes = [config.get("recipe"), *(config.get("recipes") or {}).values()]
    used = {str(recipe.get("optimizer")) for recipe in recipes if isinstance(recipe, Mapping)}
    if not used or not used <= set(_MODULES):
        return frozenset()
    every = {module for modules in _MODULES.values() for module in modules}
    return frozenset(every - {module for name in used for module in _MODULES[name]})
