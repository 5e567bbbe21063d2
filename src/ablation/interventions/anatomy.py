"""The parts of a decoder that interventions change, found in any class of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ablation.config.interventions import layer_count
from ablation.model.forward import plain_layers
from ablation.model.packing import Example, Rows, pack

# Names of norms of queries, keys and values, and of what they are projected to.
PROJECTED = re.compile(r"(q|k|v|kv|query|key|value)_")
# Names of norms over all heads of an attention, in front of its last projection.
MIXING = re.compile(r"sub_?norm|group_?norm")
# Names of the last projection of an attention, from which its heads reach the residual stream.
OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo", "out_lin", "proj")

PROBE_WIDTH = 512  # tokens of the rows with which models are audited on a GPU


class NoSuchPart(ValueError):
    """The class of the model has no part that the intervention could change."""


class Matrix(NamedTuple):
    """A weight of the layers, as [..., outputs, inputs] whatever its module stores."""

    name: str
    weight: nn.Parameter
    stored: bool  # as [inputs, outputs]

    @property
    def values(self) -> Tensor:
        """A view on the weights, [..., outputs, inputs]."""
        data = self.weight.data
        return data.transpose(-1, -2) if self.stored else data


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers. Raises NoSuchPart if no list of modules is as long as the model."""
    config = model.config.get_text_config()
    count = layer_count(config.to_dict())
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and any(_attention(layer) is not None for layer in module)
    }
    if not found:
        raise NoSuchPart(f"{type(model).__name__}: no list of {count} layers with attention")
    # Encoders of images or sounds that have as many layers lie deeper, or before the text.
    return found[min(reversed(found), key=lambda name: name.count("."))]


def _attention(layer: nn.Module) -> nn.Module | None:
    return next(
        (m for m in layer.modules() if "Attention" in type(m).__name__ and m is not layer), None
    )


def attention_output(layer: nn.Module) -> nn.Linear | Conv1D:
    """The last projection of a layer's attention.

    Raises NoSuchPart if there is none, or if what it reads of a head depends on the other heads.
    """
    attention = _attention(layer)
    parts = dict(attention.named_modules()) if attention is not None else {}
    if any(MIXING.search(name) for name in parts):
        raise NoSuchPart(f"{type(layer).__name__}: a norm mixes its heads before the projection")
    for name, module in parts.items():
        if name.rpartition(".")[2] in OUTPUTS and isinstance(module, nn.Linear | Conv1D):
            return module
    raise NoSuchPart(f"{type(layer).__name__}: its attention has no output projection")


def inputs_first(module: nn.Module) -> bool:
    """Whether a module stores its weights as [..., inputs, outputs]."""
    # Experts that are stored in one weight say it by this attribute.
    return isinstance(module, Conv1D) or getattr(module, "is_transposed", False)


def matrices(model: PreTrainedModel) -> list[Matrix]:
    """Every matrix of the layers, and those of all experts as one; no norms and no biases."""
    found: dict[int, Matrix] = {}
    for number, layer in enumerate(layers_of(model)):
        for path, module in layer.named_modules():
            if _is_norm(module):
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight.dim() > 1 and not name.endswith("bias"):
                    full = ".".join(filter(None, [str(number), path, name]))
                    found.setdefault(id(weight), Matrix(full, weight, inputs_first(module)))
    return list(found.values())


def norms(layer: nn.Module, width: int) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, norm) of each norm of the residual stream in a layer."""
    for parent in list(layer.modules()):
        for name, module in list(parent.named_children()):
            weight = getattr(module, "weight", None)
            own = _is_norm(module) and not PROJECTED.match(name)
            if own and torch.is_tensor(weight) and weight.shape == (width,):
                yield parent, name, module


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def probe(model: PreTrainedModel, prompt: int, continuation: int = 2, seed: int = 0) -> Rows:
    """A row of random tokens, with which a model is audited: one prompt and its continuation."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    length = prompt + continuation
    ids = torch.randint(3, config.vocab_size, (length,), generator=generator).tolist()
    # Kernels are compiled for each width on a GPU; one serves all audits but long ones.
    width = max(PROBE_WIDTH, length + -length % 128) if model.device.type == "cuda" else None
    rows = pack([Example(ids[:prompt], [ids[prompt:]])], capacity=length, width=width)
    return rows.to(model.device)


def called(
    model: PreTrainedModel, modules: Iterable[nn.Module], seen: Callable, run: Callable[[], Any]
) -> int:
    """Run `run` without gradients in eval mode; call `seen(number, module, args, kwargs, output)`.

    `seen` is called after each call of one of `modules`; its number is that in the list. Returns
    how many calls there were.
    """
    calls = 0

    def hook(number: int) -> Callable:
        def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            nonlocal calls
            calls += 1
            seen(number, module, args, kwargs, output)

        return after

    handles = [
        module.register_forward_hook(hook(number), with_kwargs=True)
        for number, module in enumerate(modules)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), plain_layers(model):
            run()
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return calls


def first_tensor(value: Any) -> Tensor:
    """The hidden states among a module's arguments or in its output."""
    if torch.is_tensor(value):
        return value
    return next(part for part in value if torch.is_tensor(part))
