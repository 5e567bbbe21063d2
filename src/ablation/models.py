"""Models from and to folders, and their logits at the positions that count.

Any decoder that `transformers.AutoModelForCausalLM` knows and whose attention mask can be set.
Files are local and safetensors; code from a model's folder is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ablation.masks import attention_mask, refuse_unsupported
from ablation.packing import Example, Rows, pack


def load(
    folder: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in eval mode, on `device`, weights in `dtype`) and tokenizer of a local folder.

    `attention` is `sdpa`, `eager` or `flex_attention`. Raises FileNotFoundError when `folder` is no
    model folder, and UnsupportedArchitecture when its mask cannot be set.
    """
    folder = Path(folder)
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
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for trace in ("is_local", "local_files_only"):  # how it was loaded is no part of what is saved
        tokenizer.init_kwargs.pop(trace, None)
    return model.to(device).eval(), tokenizer


def load_on(
    hardware: Mapping, folder: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """`load` as the study's `hardware:` block says; sets torch's threads, on which bits depend."""
    torch.set_num_threads(hardware["threads"])
    device = "cuda" if hardware["gpu"] else "cpu"
    return load(folder, hardware["dtype"], hardware["attention"], device)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write both into `folder` (made if missing); equal weights give equal bytes."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def circumstances(model: PreTrainedModel) -> dict[str, str | int]:
    """On what `model` computes: what must be equal for two of its numbers to be compared."""
    device = model.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
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
        rows = pack([Example([3, 4, 5], [[6, 7]])], capacity=5).to(model.device)
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
