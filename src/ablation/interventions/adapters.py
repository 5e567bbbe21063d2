"""Adapters: a product of two small matrices, trained beside each frozen weight and added to it.

Sources: Hu et al. 2021, LoRA (arXiv:2106.09685), as the library peft does it; Dettmers et al. 2023,
QLoRA (arXiv:2305.14314), for frozen weights of 4 bits, as bitsandbytes does it. Both are imported
in the functions, because they are extras.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ablation.config.recipes import ALL_LINEAR, Adapter
from ablation.interventions.anatomy import NoSuchPart
from ablation.interventions.protocol import Intervention
from ablation.model.checks.treated import NotInForce
from ablation.model.ordered_sums import OrderedLinear, order_sums
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import write_json


class TrainedAdapter(NamedTuple):
    """The files of an adapter as peft has them: its configuration, and its weights by name."""

    settings: dict[str, Any]
    weights: dict[str, Tensor]

    def save(self, folder: str | Path) -> None:
        """Write the adapter as a folder that `PeftModel.from_pretrained` reads."""
        with atomic_path(Path(folder)) as scratch:
            scratch.mkdir()
            write_json(scratch / "adapter_config.json", self.settings)
            save_file(self.weights, scratch / "adapter_model.safetensors", {"format": "pt"})


def target_names(model: PreTrainedModel, settings: Adapter) -> list[str]:
    """The full names of the linear layers that get an adapter. Raises NoSuchPart."""
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    if settings.targets == ALL_LINEAR:
        return linear
    chosen: set[str] = set()
    for target in settings.targets:
        found = {name for name in linear if f".{name}".endswith(f".{target}")}
        if not found:
            ends = sorted({re.split(r"\d+\.", name)[-1].rpartition(".")[2] for name in linear})
            raise NoSuchPart(
                f"adapter.targets: {target!r} found, but no linear layer of {type(model).__name__} "
                f"has that name: some of {', '.join(ends)}, or {ALL_LINEAR}, was expected"
            )
        chosen |= found
    return [name for name in linear if name in chosen]


@torch.no_grad()
def require_kept(model: PreTrainedModel, settings: Adapter, under: Intervention) -> None:
    """Refuse, before the training, an adapter that would undo the intervention once it is merged.

    The weights of its targets are changed by noise, as a merge may change them, and then set back.
    Raises NotInForce if the intervention is not in force meanwhile.
    """
    names = target_names(model, settings)
    weights = [model.get_submodule(name).get_parameter("weight") for name in names]
    before = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    try:
        for weight in weights:
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_((noise * max(float(weight.float().std()), 1e-3)).to(weight))
        under.audit(model)
    except NotInForce as error:
        raise NotInForce(
            f"an adapter of {settings.targets} cannot be trained under {under.name!r} "
            f"({under.settings.kind}), because its merge into the weights would undo it. Name "
            f"other `targets`, or train all weights (`adapter: null`). With noise in the targets, "
            f"{str(error).partition(': ')[2].partition('. Nothing')[0]}"
        ) from None
    finally:
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)


def add_adapter(model: PreTrainedModel, settings: Adapter) -> Any:
    """Freeze the weights of `model`, and put an adapter, which adds 0 at first, beside its targets.

    Returns the model of peft around `model`; `model` itself computes with the adapter too.
    """
    from peft import LoraConfig, get_peft_model

    names = target_names(model, settings)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in names),
    )
    ordered = any(isinstance(module, OrderedLinear) for module in model.modules())
    if settings.base_bits is not None:
        _round_weights(model)
    # In the dtype of the weights: the optimizer has float32 copies, as of all bfloat16 weights.
    adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
    if ordered:
        order_sums(model)  # the linear layers of the adapter too
    return adapted


def merge(
    adapted: Any, settings: Adapter, load: Callable[[], PreTrainedModel]
) -> tuple[PreTrainedModel, TrainedAdapter]:
    """Add the adapter to the weights of the model beside which it was trained, in place.

    Weights of 4 bits cannot take it up exactly: the adapter is added to those of the model that
    `load` returns. Also returns the adapter as it was. It names no folder, and its targets are in
    alphabetical order, so that equal trainings give equal bytes.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    config = adapted.peft_config["default"]
    targets = sorted(
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if hasattr(module, "base_layer")
    )
    facts = {"base_model_name_or_path": None, "inference_mode": True, "target_modules": targets}
    weights = {
        name: tensor.detach().cpu().clone()
        for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    if settings.base_bits is not None:
        adapted = add_adapter(load(), settings.model_copy(update={"base_bits": None}))
        set_peft_model_state_dict(adapted, weights)
    return adapted.merge_and_unload(), TrainedAdapter(config.to_dict() | facts, weights)


def _round_weights(model: PreTrainedModel) -> None:
    """Let bitsandbytes hold the weights of all linear layers but the head in 4 bits."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    for name, layer in layers.items():
        plain, bias = layer.weight, layer.bias
        sizes = layer.in_features, layer.out_features
        rounded = Linear4bit(*sizes, bias is not None, plain.dtype, quant_type="nf4", device="meta")
        rounded.weight = Params4bit(plain.data.cpu(), requires_grad=False, quant_type="nf4")
        rounded.bias = bias
        model.set_submodule(name, rounded.to(plain.device))  # the weights are rounded on their way
