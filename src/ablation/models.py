"""Models from and to folders, and their logits at the positions that count.

Any decoder that `transformers.AutoModelForCausalLM` knows and whose attention mask can be set.
Files are local and safetensors; code from a model's folder is never run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ablation.masks import AUDITED, attention_mask, refuse_unsupported
from ablation.packing import Example, Rows, pack
from ablation.provenance import atomic_path, write_json

RAW_WEIGHTS = "raw_state_dict.safetensors"
RAW_BASE = "raw_state_dict.json"  # {"base": the folder whose class and config the weights are for}


def load(
    folder: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in eval mode, on `device`, weights in `dtype`) and tokenizer of a local folder.

    `attention` is `sdpa`, `eager` or `flex_attention`. Raises FileNotFoundError when `folder` is no
    model folder, and UnsupportedArchitecture when its mask cannot be set.
    """
    folder = Path(folder)
    if (folder / RAW_BASE).is_file():
        base = folder / json.loads((folder / RAW_BASE).read_text())["base"]
        model, _ = load(base, dtype, attention, device)
        load_model(model, folder / RAW_WEIGHTS)
        return model, _tokenizer(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json there, so it is no model folder. Models are read from local "
            "folders only: fetch a hub model first (stage 0), then give its folder."
        )
    refuse_unsupported(AutoConfig.from_pretrained(folder, local_files_only=True))
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        local_files_only=True,
        use_safetensors=True,
    )
    return model.to(device).eval(), _tokenizer(folder)


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
    base: str | Path | None = None,
) -> str:
    """Write both as `folder`, whole or not at all; equal weights give equal bytes.

    Returns the format: `hf_pretrained`, or `raw_state_dict` where the model's class cannot save
    itself and `base` names the folder it was loaded from. `load` reads both. Without `base` the
    class's own error is raised.
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
            if base is None:
                raise
            print(
                f"{type(model).__name__} cannot save itself ({error}): {folder} gets its weights "
                f"as they are, and refers to {base} for the rest",
                file=sys.stderr,
            )
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            save_model(model, str(scratch / RAW_WEIGHTS))
            write_json(scratch / RAW_BASE, {"base": os.path.relpath(base, folder)})
            form = "raw_state_dict"
        tokenizer.save_pretrained(scratch)
    return form


def circumstances(model: PreTrainedModel) -> dict[str, str | int | bool]:
    """On what `model` computes: what must be equal for two of its numbers to be compared."""
    device = model.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
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
    inputs = {
        "input_ids": rows.input_ids,
        "attention_mask": attention_mask(model, mask, rows),
        "position_ids": rows.position_ids,
        "use_cache": False,
    }
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
            logits = model(
                input_ids=rows.input_ids,
                attention_mask=attention_mask(model, "causal", rows),
                position_ids=rows.position_ids,
                use_cache=False,
            ).logits
            _plain_heads[model] = len(seen) == 1 and torch.equal(head(seen[0]), logits)
        finally:
            hook.remove()
            model.train(was_training)
    return _plain_heads[model]
