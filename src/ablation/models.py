"""Models from and to folders, and their logits at the positions that count.

Any decoder that `transformers.AutoModelForCausalLM` knows and whose attention mask can be set; of
a multimodal model its text part. FP8 weights become bfloat16, the same in every stage. Files are
local and safetensors; code from a model's folder is never run.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ablation.atomic import atomic_path
from ablation.masks import AUDITED, UnsupportedArchitecture, forward_inputs, refuse_unsupported
from ablation.packing import Example, Rows, pack
from ablation.provenance import processor

RAW_WEIGHTS = "raw_state_dict.safetensors"


class UnsupportedQuantization(ValueError):
    """The checkpoint's weights are packed in a form that cannot be turned into plain ones."""


def load(
    folder: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in eval mode, on `device`, weights in `dtype`) and tokenizer of a local folder.

    FP8 weights are dequantized to bfloat16 first, whatever `dtype` is. `attention` is `sdpa`,
    `eager` or `flex_attention`. Raises FileNotFoundError when `folder` is no model folder,
    UnsupportedArchitecture when its mask cannot be set, and UnsupportedQuantization.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json there, so it is no model folder. Models are read from local "
            "folders only: fetch a hub model first (stage 0), then give its folder."
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    refuse_unsupported(config)
    how = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    if (folder / RAW_WEIGHTS).is_file():
        model = _from_state_dict(AutoModelForCausalLM.from_config(config, **how), folder)
    else:
        model = _from_checkpoint(config, folder, **how)
    return model.to(device).eval(), _tokenizer(folder)


def _from_checkpoint(
    config: PreTrainedConfig, folder: Path, dtype: torch.dtype, attn_implementation: str
) -> PreTrainedModel:
    """The causal model of a checkpoint as transformers writes it: plain or FP8, text or more."""
    packed = _to_be_dequantized(config, folder)
    text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    kind = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    model, found = kind.from_pretrained(
        folder,
        config=config,
        dtype=torch.bfloat16 if packed else dtype,
        attn_implementation=attn_implementation,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:  # transformers makes them up, at random
        raise ValueError(
            f"{folder}: {len(found['missing_keys'])} weights of its {type(model).__name__} are in "
            f"none of its files ({min(found['missing_keys'])}, ...): fetch it again"
        )
    if packed or not text_only:
        model = _text_part(model)
    return model.float() if packed and dtype == torch.float32 else model


def _to_be_dequantized(config: PreTrainedConfig, folder: Path) -> bool:
    """Whether the weights are FP8; `config` then says that they shall be unpacked on loading."""
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return False
    method = quantization.get("quant_method", "an unnamed method")
    if method != "fp8":
        raise UnsupportedQuantization(
            f"{folder}: its weights are quantized by {method}. They are to be finetuned whole, so "
            "plain ones are needed (FP8 is unpacked): take the checkpoint that it was made from."
        )
    _refuse_unscaled(folder)
    config.quantization_config = {**quantization, "dequantize": True}
    return True


def _refuse_unscaled(folder: Path) -> None:
    """Raise UnsupportedQuantization for an FP8 weight without its scale: it would be taken as 1."""
    dtypes: dict[str, str] = {}
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names = tensors.keys()
            dtypes |= {name: tensors.get_slice(name).get_dtype() for name in names}
    for name, dtype in dtypes.items():
        stem = name.removesuffix("weight")
        scales = (f"{name}_scale_inv", f"{stem}scale", f"{stem}qscale_weight")
        if dtype.startswith("F8_E4M3") and not any(scale in dtypes for scale in scales):
            raise UnsupportedQuantization(
                f"{folder}: {name} is FP8, but {scales[0]} is in none of the files: fetch it again"
            )


def _text_part(model: PreTrainedModel) -> PreTrainedModel:
    """The decoder and head of `model` in the causal class of its text configuration.

    A model that transformers unpacked or renamed on loading is packed and renamed again on saving:
    this one is saved as it computes. No weight is copied.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    config, embeddings = decoder.config, decoder.get_input_embeddings()
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None or head is None:
        raise UnsupportedArchitecture(
            f"model type {model.config.model_type!r}: its text part ({config.model_type}) is no "
            "causal language model of its own. Use a text-only decoder."
        )
    config.tie_word_embeddings = head.weight is embeddings.weight
    with torch.device("meta"):
        text = kind(config)
    setattr(text, text.base_model_prefix, decoder)
    text.set_output_embeddings(head)
    text.generation_config = model.generation_config
    return text


def _from_state_dict(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model` with the weights that `save` wrote as they are."""
    with safe_open(folder / RAW_WEIGHTS, "pt") as saved:
        dtypes = {name: saved.get_slice(name).get_dtype() for name in saved.keys()}  # noqa: SIM118
    if len(set(dtypes.values())) > 1:  # a class may keep some weights in float32, a router's say
        for name in (name for name, dtype in dtypes.items() if dtype == "F32"):
            owner, _, weight = name.rpartition(".")
            tensor = getattr(model.get_submodule(owner), weight)
            tensor.data = tensor.data.float()
    load_model(model, folder / RAW_WEIGHTS)
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for trace in ("is_local", "local_files_only"):  # how it was loaded is no part of what is saved
        tokenizer.init_kwargs.pop(trace, None)
    return tokenizer


def load_on(
    hardware: Mapping, folder: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load` as the study's `hardware:` block says; sets torch's threads, on which bits depend."""
    torch.set_num_threads(hardware["threads"])
    device = "cuda" if hardware["gpu"] else "cpu"
    model, tokenizer = load(folder, hardware["dtype"], hardware["attention"], device)
    if hardware["compile"]:
        compile_layers(model)
    return model, tokenizer


def compile_layers(model: PreTrainedModel) -> None:
    """Have torch fuse norms, rotary embedding and gates of each decoder layer, in place.

    The layers share their code, so that one is compiled for all, once for each width of the rows
    (`packing.fixed_rows` makes few) and mode of the model.
    """
    # beyond it torch would run uncompiled flex attention, which holds [tokens, tokens] in memory
    torch._dynamo.config.recompile_limit = 64
    decoder = model.get_decoder()
    for layer in decoder.layers:
        layer.compile(dynamic=False)
    decoder.norm.compile(dynamic=False)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
) -> str:
    """Write both as `folder`, whole or not at all; equal weights give equal bytes.

    Returns the format: `hf_pretrained`, or `raw_state_dict` where the model's class cannot save
    itself. `load` reads both; either folder stands alone.
    """
    folder = Path(folder)
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # by a save that was killed
        shutil.rmtree(left)
    with atomic_path(folder) as scratch:
        try:
            model.save_pretrained(scratch)
            form = "hf_pretrained"
        except OSError:
            raise  # a full disk is no fault of the class
        except Exception as error:
            print(
                f"{type(model).__name__} cannot save itself ({error}): {folder} gets its weights "
                f"as they are",
                file=sys.stderr,
            )
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            save_model(model, str(scratch / RAW_WEIGHTS))
            model.config.to_json_file(scratch / "config.json")
            model.generation_config.to_json_file(scratch / "generation_config.json")
            form = "raw_state_dict"
        tokenizer.save_pretrained(scratch)
    return form


def circumstances(model: PreTrainedModel) -> dict[str, str | int | bool]:
    """On what `model` computes: what must be equal for two of its numbers to be compared."""
    device = model.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
        "compile": any(m._compiled_call_impl is not None for m in model.modules()),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
    }


def target_logits(model: PreTrainedModel, rows: Rows, mask: str) -> Tensor:
    """Logits [targets, vocabulary] at the targets of `rows`, in the model's dtype; differentiable.

    The decoder runs once under `mask`; the output head, which can cost more than all layers of a
    small model, only where something is predicted.
    """
    states, head = last_states(model, rows, mask)
    return head(states[rows.target_row, rows.target_position])


def last_states(
    model: PreTrainedModel, rows: Rows, mask: str
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The decoder's last hidden states [rows, tokens, width], and the head that makes them logits.

    Where a model does more than apply its head (soft-capping, a logit scale), the states are the
    logits of the whole forward and the head changes nothing.
    """
    inputs = forward_inputs(model, mask, rows)
    if _has_plain_head(model):
        return model.get_decoder()(**inputs).last_hidden_state, model.get_output_embeddings()
    return model(**inputs).logits, lambda logits: logits


_plain_heads: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@torch.no_grad()
def _has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the output embeddings applied to the decoder's last state; looked up once.

    The head is applied again to the state that the decoder gave during one small forward. It is
    the same product of the same shapes, so any difference at all means that more is done.
    """
    if model not in _plain_heads:
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        if decoder is None or decoder is model or head is None:
            _plain_heads[model] = False
            return False
        width = AUDITED if model.device.type == "cuda" else None  # no width of its own to compile
        rows = pack([Example([3, 4, 5], [[6, 7]])], capacity=5, width=width).to(model.device)
        seen: list[Tensor] = []
        hook = decoder.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        was_training = model.training
        model.eval()
        try:
            logits = model(**forward_inputs(model, "causal", rows)).logits
            _plain_heads[model] = len(seen) == 1 and torch.equal(head(seen[0]), logits)
        finally:
            hook.remove()
            model.train(was_training)
    return _plain_heads[model]
