"""The kind `drop_layers`: whole layers are removed from the stack.

Sources: Men et al. 2024, "ShortGPT" (arXiv:2403.03853), and Gromov et al. 2024, "The Unreasonable
Ineffectiveness of the Deeper Layers" (arXiv:2403.17887, PruneMe), which removes a block of deep
layers and heals the model by finetuning.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ablation.config.interventions import DropLayers
from ablation.interventions.anatomy import NoSuchPart, called, layers_of, probe
from ablation.interventions.protocol import Intervention
from ablation.model.masks import forward_inputs


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


def _shorten(config: PreTrainedConfig, count: int, dropped: set[int]) -> None:
    """Remove the entries of the dropped layers from every list of one entry a layer."""
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count and key != "architectures":
            setattr(config, key, [v for i, v in enumerate(value) if i not in dropped])
    if config.to_dict().get(name) != count:
        raise NoSuchPart(f"{config.model_type}: its configuration has no number of layers")
    setattr(config, name, count - len(dropped))
