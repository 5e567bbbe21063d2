"""The kind `drop_layers`: whole layers are removed from the stack.

Sources: Men et al. 2024, "ShortGPT" (arXiv:2403.03853), and Gromov et al. 2024, "The Unreasonable
Ineffectiveness of the Deeper Layers" (arXiv:2403.17887, PruneMe), which removes a block of deep
layers and heals the model by finetuning.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ablation.config.interventions import DropLayers
from ablation.interventions.anatomy import NoSuchPart, called, layers_of, probe
from ablation.interventions.protocol import Intervention
from ablation.model.forward import plain_layers
from ablation.model.masks import forward_inputs

NOT_OF_LAYERS = ("architectures", "eos_token_id")  # lists that can be as long by chance
LOST = 0.01  # of the largest logit: smaller differences are rounding


class DroppedLayers(Intervention):
    """Deletes the layers and shortens the configuration, so that saved models are smaller."""

    settings: DropLayers

    def take_away(self, model: PreTrainedModel) -> dict[str, Any]:
        layers, dropped = layers_of(model), set(self.settings.layers)
        count = len(layers)
        _shorten(model.config.get_text_config(), count, dropped)
        for number in sorted(dropped, reverse=True):
            del layers[number]
        for number, layer in enumerate(layers):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):  # the place of its keys and values in a cache
                    setattr(module, "layer_idx", number)  # noqa: B010  # no declared attribute
        if different := _lost_when_saved(model, self.mask):
            names = ", ".join(map(str, sorted(dropped)))
            raise NoSuchPart(
                f"{type(model).__name__}: without layers {names} it would be another model once it "
                f"is saved and loaded ({different}). Drop layers of other numbers"
            )
        return {"layers": count}

    def audit(self, model: PreTrainedModel) -> dict[str, Any]:
        """A forward calls as many layers fewer as were dropped."""
        layers = layers_of(model)
        inputs = forward_inputs(model, self.mask, probe(model, prompt=4))
        ran = called(model, layers, lambda *call: None, lambda: model(**inputs))
        before = self.before(model).get("layers", len(layers))
        expected = before - len(self.settings.layers)
        if ran != expected:
            raise self.not_in_force(
                model, f"{ran} layers ran, expected {expected} of the {before} of the whole model"
            )
        return {"layers_ran": ran, "layers_before": before}


@torch.no_grad()
def _lost_when_saved(model: PreTrainedModel, mask: str) -> str | None:
    """How a model that is built from the shortened configuration differs from `model`, or None.

    Some classes compute from the number of a layer, or from how many there are, of which kind it
    is, or a factor in it. The built model has the same weights in the same memory.
    """
    kind, attention = type(model.config), model.config._attn_implementation
    try:
        own = kind.from_dict(model.config.to_dict(), attn_implementation=attention)
        with torch.device("meta"):
            built = type(model)(own)
        built.load_state_dict(model.state_dict(), assign=True)
        for name, buffer in model.named_buffers():  # most are in no state
            path, _, last = name.rpartition(".")
            built.get_submodule(path).register_buffer(last, buffer, persistent=False)
    except Exception as error:  # whatever a class raises for a configuration that it cannot read
        return str(error).splitlines()[-1].strip()
    rows = probe(model, prompt=4)
    with plain_layers(model):
        expected, found = (
            each.eval()(**forward_inputs(each, mask, rows)).logits for each in (model, built)
        )
    differ, largest = (found - expected).abs().max(), expected.abs().max()
    if differ > LOST * largest:
        return f"its logits would differ by {float(differ):.3g}"
    return None


def _shorten(config: PreTrainedConfig, count: int, dropped: set[int]) -> None:
    """Remove the entries of the dropped layers from every list of one entry a layer."""
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count and key not in NOT_OF_LAYERS:
            setattr(config, key, [v for i, v in enumerate(value) if i not in dropped])
    if config.to_dict().get(name) != count:
        raise NoSuchPart(f"{config.model_type}: its configuration has no number of layers")
    setattr(config, name, count - len(dropped))
