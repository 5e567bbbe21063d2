"""Makes and loads translators, which turn source activations into K soft tokens.

There are three kinds: `resampler`, `diffusion` and the control `source_free`, which reads no
source. The first two mark every soft token and every source token with its position. All kinds end
in `Scale`, so soft tokens have the scale of the target's embeddings. None of them ends in a
LayerNorm, which would remove information from the direction of a soft token.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablation.bridge.model.diffusion import Diffusion
from ablation.bridge.model.embeddings import input_embeddings
from ablation.bridge.model.pair import Pair
from ablation.bridge.model.resampler import Resampler
from ablation.bridge.model.translator_layers import Scale, Soft, Translator, embedding_rms
from ablation.config.bridge_blocks import Recipe
from ablation.config.bridge_blocks import Translator as TranslatorConfig
from ablation.vocabulary.bridge import DIFFUSION, RESAMPLER, SOURCE_FREE


class SourceFree(Translator):
    """A control: K learned tokens that read no source (prompt tuning, Lester et al. 2021)."""

    def __init__(
        self, k: int, source_width: int, target_width: int, rms: float, size: TranslatorConfig
    ) -> None:
        super().__init__()
        self.k = k
        self.tokens = nn.Parameter(torch.randn(k, target_width))
        self.scale = Scale(rms)

    def forward(self, activations: Tensor, mask: Tensor, **_: object) -> Soft:
        """The same soft tokens for each of the activations [batch, tokens, source width]."""
        return Soft(self.scale(self.tokens).expand(len(activations), -1, -1), None)


KINDS: dict[str, type[Resampler] | type[Diffusion] | type[SourceFree]] = {
    RESAMPLER: Resampler,
    DIFFUSION: Diffusion,
    SOURCE_FREE: SourceFree,
}


def new_translator(
    recipe: Recipe, k: int, source_width: int, target: PreTrainedModel, seed: int
) -> Translator:
    """A translator with new float32 weights, which `seed` decides, on the target's device."""
    torch.manual_seed(seed)
    table, size = input_embeddings(target).weight, recipe.translator
    kind = KINDS[size.kind]
    return kind(k, source_width, table.shape[1], embedding_rms(table), size).to(target.device)


def load_translator(file: str | Path, recipe: Recipe, k: int, pair: Pair) -> Translator:
    """A trained translator from its file, in eval mode."""
    width = input_embeddings(pair.source.model).weight.shape[1]
    translator = new_translator(recipe, k, width, pair.target.model, seed=0)
    translator.load_state_dict(load_file(file))
    return translator.eval()
