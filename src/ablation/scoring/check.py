"""Checks a model folder in seconds: does it score here as in stock lm-eval, under every mask?

A few items are scored by stock lm-eval with the model as transformers loads it, and here. The other
masks, for which there is no stock score, are compared with real inference and with masks that are
made by hand.
"""

from __future__ import annotations

import gc
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablation.config.checkpoint_files import NotTheCheckpoint, refuse_adapter
from ablation.model.checkpoints import (
    NeedsOwnCode,
    UnsupportedQuantization,
    load,
    read_config,
    read_tokenizer,
    save,
    stock_model,
)
from ablation.model.checks.agreement import (
    LAYOUTS,
    LONGEST_WINDOW,
    DiffersFromStock,
    require_agreement,
)
from ablation.model.checks.reduced import base_agreement
from ablation.model.checks.supported import UnsupportedArchitecture, refuse_unsupported
from ablation.model.checks.treated import NotInForce
from ablation.model.leak_audit import leak_audit
from ablation.model.positions import windows
from ablation.scoring.encoding import EncodedRequest
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import CAUSAL, MASKS

PREFILL_BIDIR = "prefill_bidir"
SENTENCE = "The hawk chose Eve and the fox chose Ann, then Tom gave the red key to Eve. "
CHOICES = (" Eve", " Tom and the red fox, who had the key to the house", " a", " nobody at all")
QUESTION = "Question: who has the key?\nAnswer:"
# Nats by which a score may differ: of float32, times the score in units of 200 nats where it is
# larger; below float32, for each token.
FLOAT32_TOLERANCE, COARSE_TOLERANCE = 1e-4, 0.1
# What transformers raises for models that it cannot run.
STOCK_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(AssertionError, NotImplementedError, StrictDataclassError),
)


class StockFails(RuntimeError):
    """transformers or lm-eval cannot run the model, so there is nothing to compare with."""


# Every way in which a model is refused; the message says why.
REFUSALS = (
    *(StockFails, DiffersFromStock, NotInForce, UnsupportedArchitecture, NotTheCheckpoint),
    *(UnsupportedQuantization, NeedsOwnCode, OSError, ValueError),
)


@dataclass(frozen=True)
class Step:
    """One comparison: its name, whether it came out as promised, and what was found."""

    name: str
    passed: bool
    found: str


def check(
    folder: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "cpu"
) -> Iterator[Step]:
    """Compare the model of a folder with stock lm-eval, step by step.

    At no time are two copies of the model in memory; the last step writes a copy into a temporary
    folder. Raises StockFails and every refusal of `load` and of the audits, which say why the model
    cannot be studied.
    """
    folder = Path(folder)
    refuse_adapter(folder)
    refuse_unsupported(read_config(folder))
    expected = None if _quantized(folder) else _stock_scores(folder, dtype, device)
    model, tokenizer = load(folder, dtype, attention, device)
    yield _layout(model, folder)
    if expected is None:  # in its own format it may need other hardware
        expected = _scored_by_hflm(model, tokenizer)

    lm = MaskedLM(model, tokenizer, label="check")
    found: dict[str, list[float]] = {}
    for mask in MASKS:
        audit = leak_audit(model, mask)
        lm.mask = mask
        found[mask] = _scored(lm)
        if mask == CAUSAL:
            yield _compared(mask, "stock lm-eval", found[mask], expected, lm)
        else:
            step = _compared(mask, "a mask made by hand", found[mask], _by_hand(lm, mask), lm)
            yield replace(step, found=step.found + "; it leaks" * audit.leaks)
    lm.mask = PREFILL_BIDIR
    try:
        decoded = _by_decoding(lm)
    except STOCK_ERRORS as error:
        yield Step("decoding", True, f"not compared: {type(error).__name__}: {_short(error)}")
    else:
        step = _compared("decoding", "one-token steps", found[PREFILL_BIDIR], decoded, lm)
        yield replace(step, found=f"{step.found} after a bidirectional prefill")
    yield _packing(model, tokenizer, found)
    device_and_more = (dtype, attention, device)
    with tempfile.TemporaryDirectory() as scratch:
        form = save(model, tokenizer, Path(scratch) / "model")
        del model, lm
        again = MaskedLM(*load(Path(scratch) / "model", *device_and_more), label="check")
    same = _scored(again) == found[CAUSAL]
    text = "the same scores to the last bit" if same else "other scores"
    yield Step("save and reload", same, f"{text}, as {form}")


def _layout(model: PreTrainedModel, folder: Path) -> Step:
    agreement = require_agreement(model)
    largest = max(getattr(agreement, name) for name in LAYOUTS)
    text = f"{largest:.1e} nats a token from the stock forward: alone, packed, second choice"
    _, copied = base_agreement(folder)
    if copied and windows(model.config):
        largest = max(getattr(copied, name) for name in LAYOUTS)
        text += f"; {largest:.1e} where windows are exceeded, on a copy with short ones"
    return Step("rows", True, text)


def _packing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    found: Mapping[str, Sequence[float]],
) -> Step:
    """Whether scores depend on rows: each choice alone, and all choices in rows that are full."""
    largest, passed = 0.0, True
    for row_tokens, batch_tokens in ((1, 1), (2048, 4096)):
        lm = MaskedLM(
            model, tokenizer, row_tokens=row_tokens, batch_tokens=batch_tokens, label="check"
        )
        for mask, scores in found.items():
            lm.mask = mask
            again = _scored(lm)
            step = _compared("packing", "", again, scores, lm)
            passed = passed and step.passed
            differences = (abs(a - b) for a, b in zip(again, scores, strict=True))
            largest = max(largest, *differences)
    return Step("packing", passed, f"{largest:.1e} nats between narrow and full rows, three masks")


def _scored(lm: MaskedLM) -> list[float]:
    with redirect_stderr(io.StringIO()):  # a line of progress for each mask says nothing here
        return [score for score, _ in lm.loglikelihood(_requests(_pairs(lm)))]


def _quantized(folder: Path) -> bool:
    return bool(getattr(read_config(folder), "quantization_config", None))


def _stock_scores(folder: Path, dtype: str, device: str) -> list[float]:
    """The scores of the items by stock lm-eval, with the model as transformers loads it."""
    try:
        stock = stock_model(folder, dtype, device)
        return _scored_by_hflm(stock, read_tokenizer(folder))
    except torch.OutOfMemoryError:
        raise
    except STOCK_ERRORS as error:
        raise StockFails(
            f"{folder}: transformers and stock lm-eval themselves fail on this model "
            f"({type(error).__name__}: {_short(error)})"
        ) from error
    finally:
        gc.collect()


def _scored_by_hflm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
    # Its cache of logits gathers at the wrong positions when equal tokens are split at two seams.
    lm = HFLM(
        pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1, logits_cache=False
    )
    return [score for score, _ in lm.loglikelihood(_requests(_pairs(lm)), disable_tqdm=True)]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _pairs(lm: HFLM) -> list[tuple[str, str]]:
    """(context, choice): of a short context, and of one that is longer than every window."""
    config = lm.model.config.get_text_config()
    reach = max((w for w in windows(config).values() if w <= LONGEST_WINDOW), default=0)
    wanted = min(max(48, reach + 24), lm.max_length - 40)
    repeats = max(1, wanted // len(lm.tok_encode(SENTENCE, add_special_tokens=False)))
    contexts = (QUESTION, SENTENCE * repeats + QUESTION)
    return [(context, choice) for context in contexts for choice in CHOICES]


def _requests(pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def _encoded(lm: HFLM) -> list[EncodedRequest]:
    return [(pair, *lm._encode_pair(*pair)) for pair in _pairs(lm)]


def _compared(
    name: str, reference: str, found: Sequence[float], expected: Sequence[float], lm: MaskedLM
) -> Step:
    """Whether scores agree with those of a reference."""
    coarse = lm.model.dtype != torch.float32
    largest, passed = 0.0, True
    for score, wanted, (_, _, continuation) in zip(found, expected, _encoded(lm), strict=True):
        difference = abs(score - wanted)
        tolerance = FLOAT32_TOLERANCE * max(1, abs(wanted) / 200)
        if coarse:
            tolerance = COARSE_TOLERANCE * len(continuation)
        largest, passed = max(largest, difference), passed and difference <= tolerance
    return Step(name, passed, f"{largest:.1e} nats from {reference}, {len(found)} choices")


@torch.no_grad()
def _by_hand(lm: MaskedLM, mask: str) -> list[float]:
    """Scores of each choice alone in its row, under a mask that is written out here."""
    model = lm.model
    config = model.config.get_text_config()
    types, window = set(getattr(config, "layer_types", None) or ()), windows(config)
    sliding = window.get("sliding_window")
    scores = []
    for _, context, continuation in _encoded(lm):
        context = context[-(lm.max_length - len(continuation)) :]
        ids = torch.tensor([context + continuation], device=model.device)
        q = torch.arange(ids.shape[1], device=model.device)[:, None]
        k, c = q.T, len(context)
        visible = {
            "causal": k <= q,
            "prefill_bidir": (k <= q) | ((k < c) & (q < c)),
            "full_bidir": (q >= 0) & (k >= 0),
        }[mask]

        def ready(reach: int | None, q: Tensor = q, visible: Tensor = visible) -> Tensor:
            near = visible & ((q - q.T).abs() < reach) if reach else visible
            zero = torch.zeros(near.shape, dtype=model.dtype, device=near.device)
            return zero.masked_fill(~near, torch.finfo(model.dtype).min)[None, None]

        ready_masks: Any = {t: ready(sliding if t == "sliding_attention" else None) for t in types}
        if types <= {"full_attention"}:
            ready_masks = ready(None if types else sliding)
        logits = model(
            input_ids=ids, attention_mask=ready_masks, position_ids=q.T, use_cache=False
        ).logits
        scores.append(_summed(logits[0, c - 1 : -1], continuation))
    return scores


@torch.no_grad()
def _by_decoding(lm: MaskedLM) -> list[float]:
    """Scores by real inference: a masked prefill, then one forward for each decoded token."""
    scores = []
    for _, context, continuation in _encoded(lm):
        context = context[-(lm.max_length - len(continuation)) :]
        prompt = torch.tensor([context], device=lm.model.device)
        cache = lm._prefill(prompt, torch.ones_like(prompt))
        logits = []
        for place, token in enumerate([context[-1], *continuation[:-1]], start=len(context) - 1):
            step = torch.tensor([[token]], device=lm.model.device)
            position = torch.full_like(step, place)
            output = lm.model(
                input_ids=step, position_ids=position, past_key_values=cache, use_cache=True
            )
            logits.append(output.logits[0])
        scores.append(_summed(torch.cat(logits), continuation))
    return scores


def _summed(logits: Tensor, continuation: Sequence[int]) -> float:
    target = torch.tensor(continuation, device=logits.device)[:, None]
    return float(logits.float().log_softmax(-1).gather(1, target).double().sum())
