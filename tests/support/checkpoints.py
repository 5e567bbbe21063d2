"""Small copies of the checkpoints on the hub: text-only or multimodal, in bfloat16 or FP8."""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from tests.support.tiny import PLAIN_ROPE, tiny_model, tiny_tokenizer

FP8_LARGEST = 448.0  # of float8_e4m3
VISION = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}


def write_multimodal(folder: Path, tie: bool = True) -> Path:
    """A Mistral3ForConditionalGeneration over a Ministral-3 decoder, with its tokenizer."""
    tokenizer = tiny_tokenizer()
    text = tiny_model("ministral3", vocabulary=len(tokenizer), tie=tie).config.to_dict()
    text |= {"model_type": "ministral3", "rope_parameters": PLAIN_ROPE}
    torch.manual_seed(1)
    config = Mistral3Config(text_config=text, vision_config=VISION, tie_word_embeddings=tie)
    model = Mistral3ForConditionalGeneration(config).bfloat16()
    return _written(model, tokenizer, folder)


def write_text_only(folder: Path, tie: bool = True) -> Path:
    tokenizer = tiny_tokenizer()
    model = tiny_model("ministral3", vocabulary=len(tokenizer), tie=tie).bfloat16()
    return _written(model, tokenizer, folder)


def _written(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def quantize(folder: Path, blocks: int | None = None) -> dict[str, torch.Tensor]:
    """Quantize the decoder's matrices on disk to FP8; return the dequantized ones in bfloat16.

    By default each tensor has one scale, and activations have a static scale, as in Mistral's
    Instruct-2512 checkpoints. With `blocks` each of `blocks` x `blocks` parts has a scale, as in
    DeepSeek's checkpoints.
    """
    file, tensors, meant = folder / "model.safetensors", {}, {}
    for name, weight in load_file(file).items():
        vision = name.startswith(("vision_tower", "multi_modal_projector"))
        if vision or not name.endswith("_proj.weight"):
            tensors[name] = meant[name] = weight
            continue
        n = blocks or 1
        parts = weight.float().unflatten(0, (n, -1)).unflatten(2, (n, -1))
        scale = (parts.abs().amax((1, 3), keepdim=True) / FP8_LARGEST).bfloat16().float()
        packed = (parts / scale).to(torch.float8_e4m3fn)
        meant[name] = (packed.float() * scale).bfloat16().reshape(weight.shape)
        tensors[name] = packed.reshape(weight.shape)
        tensors[f"{name}_scale_inv"] = scale[:, 0, :, 0] if blocks else scale.flatten()[0]
        if not blocks:
            tensors[f"{name.removesuffix('weight')}activation_scale"] = torch.tensor(0.5)
    save_file(tensors, file, metadata={"format": "pt"})
    edit_config(
        folder,
        quantization_config={
            "quant_method": "fp8",
            "activation_scheme": "dynamic" if blocks else "static",
            "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector"]
            + ["lm_head"],
            "weight_block_size": [128, 128] if blocks else None,
        },
    )
    return meant


def edit_config(folder: Path, **values) -> None:
    edit_json(folder / "config.json", **values)


def edit_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def drop_tensors(folder: Path, ending: str) -> None:
    file = folder / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if not name.endswith(ending)}
    save_file(kept, file, metadata={"format": "pt"})


transformers.logging.set_verbosity_error()
