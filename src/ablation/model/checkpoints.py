"""Loads models and tokenizers from local folders, and saves them.

Every decoder of `transformers.AutoModelForCausalLM` whose attention mask can be set can be loaded.
Of a multimodal model the text part is loaded. FP8 weights become bfloat16 in every stage alike.
Files are local and in safetensors format; code from a model's folder is never run.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
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
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from ablation.config.checkpoint_files import (
    refuse_adapter,
    refuse_references,
    weight_files,
)
from ablation.config.study import ComputeSettings
from ablation.model.checks.faithful import refuse_other_ties, refuse_surplus
from ablation.model.checks.held import refuse_other_instructions
from ablation.model.checks.supported import UnsupportedArchitecture, refuse_unsupported
from ablation.model.checks.treated import MARK, NotInForce, marks
from ablation.model.ordered_sums import order_sums
from ablation.provenance.atomic import atomic_path
from ablation.provenance.run_records import processor_name
from ablation.vocabulary.instructions import environment, held_to

RAW_WEIGHTS = "raw_state_dict.safetensors"


class UnsupportedQuantization(ValueError):
    """The checkpoint's weights are quantized in a format that cannot be dequantized here."""


class NeedsOwnCode(ValueError):
    """The folder can be read only by Python code that it brings with it, which is never run."""


def load(
    folder: str | Path,
    dtype: str = "float32",
    attention: str = "sdpa",
    device: str = "cpu",
    treated: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model (in eval mode, on `device`, weights in `dtype`) and tokenizer of a folder.

    FP8 weights are dequantized to bfloat16 first, whatever `dtype` is. `attention` is `sdpa`,
    `eager` or `flex_attention`; a class that cannot compute it gets one that it can, which is
    printed. Raises FileNotFoundError if `folder` is no model folder, UnsupportedArchitecture if its
    attention mask cannot be set, NotTheCheckpoint if its weights make another model than
    transformers builds, UnsupportedQuantization, and NotInForce if something was taken away from
    the model and the caller does not say, by `treated`, that it takes it away again.
    """
    folder = Path(folder)
    refuse_adapter(folder)
    config = read_config(folder)
    if marks(config) and not treated:
        kinds = ", ".join(entry["settings"]["kind"] for entry in marks(config))
        raise NotInForce(
            f"{folder}: its config.json names what was taken away from it ({kinds}, {MARK}), which "
            "a plain load would give back. Load it with ablation.interventions.loading.load"
        )
    refuse_unsupported(config)
    attention = possible_attention(config, folder, attention)
    settings: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    if (folder / RAW_WEIGHTS).is_file():
        model = _from_state_dict(from_config(config, **settings), folder)
    else:
        if device.startswith("cuda"):  # several threads copy the weights there at once
            index = torch.device(device).index
            settings["device_map"] = {"": torch.cuda.current_device() if index is None else index}
        model = _from_checkpoint(config, folder, **settings)
    refuse_other_ties(model, folder)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps it without its signature
    return model.eval(), read_tokenizer(folder)


def stock_model(folder: Path, dtype: str, device: str) -> PreTrainedModel:
    """The model of a folder as transformers loads it, without anything that this project does."""
    config = read_config(folder)
    text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    auto_class = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    with _own_code_refused(folder):
        model = auto_class.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    model.to(device)  # type: ignore[arg-type]  # as in `load`
    return model.eval()


def possible_attention(config: PreTrainedConfig, folder: Path, wanted: str) -> str:
    """`wanted`, or the implementation nearest to it that the class of `config` supports."""
    text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    classes = MODEL_FOR_CAUSAL_LM_MAPPING if text_only else MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind = cast(type[PreTrainedModel] | None, classes.get(type(config), None))
    if kind is None:
        return wanted  # transformers says which classes it has
    supported = {"flex_attention": kind._supports_flex_attn, "sdpa": kind._supports_sdpa}
    order = ("flex_attention", "sdpa") if wanted == "flex_attention" else (wanted,)
    chosen = next((name for name in order if supported.get(name, True)), "eager")
    if chosen != wanted:
        print(
            f"{folder}: {kind.__name__} has no {wanted} attention, so it is loaded with {chosen} "
            "attention",
            file=sys.stderr,
        )
    return chosen


def _from_checkpoint(
    config: PreTrainedConfig, folder: Path, dtype: torch.dtype, **settings: Any
) -> PreTrainedModel:
    """Load a checkpoint in transformers' format as a causal language model.

    The checkpoint may be plain or FP8, text-only or multimodal.
    """
    weight_files(folder)  # raises ValueError if they are not in the file table of the folder
    quantized = _dequantize_on_loading(config, folder)
    text_only = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    auto_class = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    with _own_code_refused(folder):
        loaded = auto_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.bfloat16 if quantized else dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
            **settings,
        )
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)  # for output_loading_info
    if missing := info["missing_keys"]:  # transformers fills these with random weights
        raise ValueError(
            f"{folder}: {len(missing)} weights of its {type(model).__name__} are in "
            f"none of its files ({min(missing)}, ...): fetch it again"
        )
    refuse_surplus(model, info["unexpected_keys"], folder)
    if quantized or not text_only:
        model = _text_part(model)
    return model.float() if quantized and dtype == torch.float32 else model


def _dequantize_on_loading(config: PreTrainedConfig, folder: Path) -> bool:
    """Whether the weights are FP8. If so, `config` is set to dequantize them on loading.

    Raises UnsupportedQuantization for every other quantization.
    """
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return False
    method = quantization.get("quant_method", "an unnamed method")
    if method != "fp8":
        raise UnsupportedQuantization(
            f"{folder}: its weights are quantized by {method}. Finetuning changes all weights, so "
            "plain ones are needed (FP8 is unpacked): take the checkpoint that it was made from."
        )
    _refuse_unscaled(folder)
    config.quantization_config = {**quantization, "dequantize": True}
    return True


def _refuse_unscaled(folder: Path) -> None:
    """Raise UnsupportedQuantization for an FP8 weight whose scale is missing.

    transformers would use a scale of 1.
    """
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

    transformers quantizes and renames the weights of the whole model again when it saves them. The
    weights of the returned model are saved as they are. No weight is copied.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    config, embeddings = decoder.config, decoder.get_input_embeddings()
    causal_class = cast(
        type[PreTrainedModel] | None, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    )
    if causal_class is None or head is None:
        raise UnsupportedArchitecture(
            f"model type {model.config.model_type!r}: its text part ({config.model_type}) is no "
            "causal language model of its own. Use a text-only decoder."
        )
    config.tie_word_embeddings = head.weight is embeddings.weight
    with torch.device("meta"):
        text = causal_class(config)
    setattr(text, text.base_model_prefix, decoder)
    text.set_output_embeddings(head)
    text.generation_config = model.generation_config
    return text


def _from_state_dict(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`model` with the weights of RAW_WEIGHTS, which `save` writes for some classes."""
    with safe_open(folder / RAW_WEIGHTS, "pt") as saved:
        dtypes = {name: saved.get_slice(name).get_dtype() for name in saved.keys()}  # noqa: SIM118
    if len(set(dtypes.values())) > 1:  # a class may keep some weights in float32, e.g. a router's
        for name in (name for name, dtype in dtypes.items() if dtype == "F32"):
            owner, _, weight = name.rpartition(".")
            tensor = getattr(model.get_submodule(owner), weight)
            tensor.data = tensor.data.float()
    load_model(model, folder / RAW_WEIGHTS)
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def read_config(folder: str | Path) -> PreTrainedConfig:
    """The configuration of a model folder.

    Raises FileNotFoundError if `folder` is no model folder, NeedsOwnCode, and ValueError if the
    configuration contradicts itself or chooses the weight files.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json there, so it is no model folder. Models are read from local "
            "folders only: fetch a hub model first (stage 0), then give its folder."
        )
    refuse_references(folder)
    with _own_code_refused(folder):
        try:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except StrictDataclassError as error:
            raise ValueError(f"{folder / 'config.json'}: {' '.join(str(error).split())}") from None
    # In config.json this attribute can have another name, which an attribute_map there defines.
    if getattr(config, "transformers_weights", None) is not None:
        raise ValueError(f"{folder}: config.json chooses its files by `transformers_weights`")
    return config


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises FileNotFoundError, NeedsOwnCode, and ValueError if it refers to files of other names.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; fetch a hub model first")
    refuse_references(Path(folder))
    with _own_code_refused(folder):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    for trace in ("is_local", "local_files_only"):  # these would be saved with the tokenizer
        tokenizer.init_kwargs.pop(trace, None)
    return tokenizer


def from_config(config: PreTrainedConfig, **settings: Any) -> PreTrainedModel:
    """A causal language model of random weights."""
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **settings)


@contextmanager
def _own_code_refused(folder: str | Path) -> Iterator[None]:
    """Replace the error of transformers, which advises to trust the code, by NeedsOwnCode."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise NeedsOwnCode(
            f"{folder} can be read only by Python code of its own (`auto_map` in config.json or "
            "tokenizer_config.json), and code from a model folder never runs here. Use a "
            "checkpoint of an architecture and a tokenizer that transformers contains"
        ) from None


def load_on(
    hardware: ComputeSettings, folder: str | Path, treated: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load` with the settings of the study's `hardware:` block.

    Also sets the number of torch's threads, on which the last bits of results depend, and the order
    of sums where the study names its instructions. Raises OtherInstructions if torch was imported
    without them.
    """
    torch.set_num_threads(hardware.threads)
    refuse_other_instructions(hardware)
    device = hardware.torch_device
    model, tokenizer = load(folder, hardware.dtype, hardware.attention, device, treated)
    if device == "cpu" and environment(hardware.instructions):
        order_sums(model)
    if hardware.compile:
        compile_layers(model)
    return model, tokenizer


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the decoder layers in place, so that torch fuses norms, rotary embedding and gates.

    All layers share one compiled function for each width of the rows (`packing.fixed_rows` makes
    few widths) and for training and evaluation. Equal jobs run equal kernels.
    """
    # Beyond this limit torch runs uncompiled flex attention, with [tokens, tokens] in memory.
    torch._dynamo.config.recompile_limit = 64
    # Otherwise the compiler times kernels that add up in different orders, and a job may choose
    # others than the last one did: on two H100 scores differed in the seventh digit from one's.
    torch._inductor.config.deterministic = True
    decoder = model.get_decoder()
    for layer in decoder.layers:
        layer.compile(dynamic=False)
    decoder.norm.compile(dynamic=False)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
) -> str:
    """Write model and tokenizer as `folder`, completely or not at all.

    Equal weights give equal bytes. Returns the format, `hf_pretrained`, or `raw_state_dict` if the
    model's class cannot save itself. `load` reads both formats and needs no other file.
    """
    folder = Path(folder)
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):  # of a save that was killed
        shutil.rmtree(leftover)
    with atomic_path(folder) as scratch:
        try:
            model.save_pretrained(scratch)
            form = "hf_pretrained"
        except (OSError, SafetensorError):
            raise  # a full disk is not an error of the class
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
    """Device, dtype, attention, compilation and threads with which `model` computes.

    Two scores are comparable only if these are equal. Processors that are held to the same
    instructions compute the same bits, so their names are only in run records.
    """
    device, held = model.device, held_to()
    processor = f"CPU held to {held}" if held else processor_name()
    if device.type == "mps":
        processor = f"MPS of {processor_name()}"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
        "compile": any(m._compiled_call_impl is not None for m in model.modules()),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
    }
