"""Log-probabilities and the training loss, computed from hidden states and the output head.

With a vocabulary of 131,072 the matrix of logits is the largest tensor in memory. The functions of
this module hold a few thousand rows of it at a time and compute log-sum-exp in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, pad
from transformers import PreTrainedModel

from ablation.model.forward import States, last_states
from ablation.model.packing import Rows, moved

# How many logits are held at once. On a CPU their 24 MB stay below the 32 MB from which glibc maps
# fresh pages for every array.
CHUNK = {"cpu": 6_000_000, "cuda": 2**28}
# Rows of a product in the loss on a CPU. Over 64 rows MKL's sums have the same bits on every
# processor, also with its kernels for AVX2; over 129 to 255 rows only with the compatible ones.
CPU_ROWS = 64
LOG2_E = math.log2(math.e)
StatesOf = Callable[[Rows, str], States]  # of rows under a mask


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """The number of rows of logits that are held at once on `device`."""
    return max(1, CHUNK.get(device.type, 2**27) // vocabulary)


def widest(device: torch.device) -> torch.dtype:
    """The type of sums on `device`: float64, which the GPU of a Mac lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


def float32_logits(head: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """`head(states)` in float32. On a GPU the sums of the product are never rounded to bfloat16."""
    if states.is_cuda and _is_plain(head) and states.dtype != torch.float32:
        return torch.mm(states, head.weight.t(), out_dtype=torch.float32)
    return head(states).float()


def _is_plain(head: Callable[[Tensor], Tensor]) -> TypeGuard[nn.Linear]:
    return isinstance(head, nn.Linear) and head.bias is None


def token_scores(logits: Tensor, row: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax of `logits` [rows, vocabulary] at (row, token), and whether token is the argmax.

    Both results are [tokens]; the first has the dtype of `logits`. Of equal logits the first is the
    argmax. float32 `logits` may be overwritten.
    """
    if logits.is_cuda and logits.dtype == torch.float32:
        from ablation.model.output_head_triton import normalizers  # needs Triton

        normalizer, best = normalizers(logits)
        return logits[row, token] - normalizer[row], best[row] == token
    if logits.is_cuda:
        return torch.log_softmax(logits, -1)[row, token], logits.argmax(-1)[row] == token
    hit = logits[row, token] == logits.amax(-1)[row]
    hit[hit.clone()] = logits[row[hit]].argmax(-1) == token[hit]
    if logits.dtype != torch.float32:
        return torch.log_softmax(logits, -1)[row, token], hit
    # In place this takes a third of log_softmax's time: no second matrix of this size is written.
    # exp2 and float64 logarithms have the same bits on every processor; MKL's exp and log do not.
    logits -= logits.amax(-1, keepdim=True)
    picked = logits[row, token]
    normalizer = logits.mul_(LOG2_E).exp2_().sum(-1).to(widest(logits.device)).log().float()
    return picked - normalizer[row], hit


class RowScores(NamedTuple):
    """The scores of each continuation, as tensors [continuations].

    loglikelihood: in nats, summed over its tokens in float64.
    loglikelihood_float32: the same without rounding to `logits_dtype`.
    is_greedy: bool, every token was the most likely one.
    """

    loglikelihood: Tensor
    loglikelihood_float32: Tensor
    is_greedy: Tensor


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    rows: Rows,
    mask: str,
    logits_dtype: torch.dtype = torch.float32,
    states_of: StatesOf | None = None,
) -> RowScores:
    """Score every continuation of `rows` (in host memory) under `mask`, on the model's device.

    states_of: computes `last_states`, given `rows` in host memory.

    On a GPU the function returns before the work is done. With `logits_dtype` bfloat16, logits,
    log-probabilities and their sum are rounded as in the published scorer, and up to a quarter of
    all four-choice items may tie. `loglikelihood_float32` then comes from the same forward, with
    log-softmax and sum in float32.
    """
    device = model.device
    predictor = rows.target_row * rows.input_ids.shape[1] + rows.target_position
    # Choices that share a prompt share its last position, whose logits are computed once.
    predictor, used_by = predictor.unique(return_inverse=True)
    used_by, order = used_by.sort()
    size = chunk_rows(model.config.get_text_config().vocab_size, device)
    bounds = torch.searchsorted(used_by, torch.arange(0, len(predictor) + size, size)).tolist()
    predictor, used_by, target_id, owner = (
        moved(t, device)
        for t in (predictor, used_by, rows.target_id[order], rows.target_owner[order])
    )

    if states_of is None:
        states, head = last_states(model, rows.to(device), mask)
    else:
        states, head = states_of(rows, mask)
    states = states.flatten(0, 1)
    logprobs, exact, greedy = [], [], []
    for chunk, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        part = states[predictor[chunk * size : (chunk + 1) * size]]
        here, wanted = used_by[start:end] - chunk * size, target_id[start:end]
        if logits_dtype == torch.float32:
            logprob, is_greedy = token_scores(float32_logits(head, part), here, wanted)
        else:
            logits = head(part)
            logprob, is_greedy = token_scores(logits.to(logits_dtype), here, wanted)
            exact.append(token_scores(logits.float(), here, wanted)[0])
        logprobs.append(logprob)
        greedy.append(is_greedy)

    def summed(values: list[Tensor]) -> Tensor:
        # In float64, because thirty additions in float32 err by more than the whole forward.
        sums = torch.zeros(rows.continuations, device=device, dtype=widest(device))
        return sums.index_add_(0, owner, torch.cat(values).to(sums.dtype)) if values else sums

    loglikelihood = summed(logprobs)
    if logits_dtype != torch.float32:
        loglikelihood = loglikelihood.to(logits_dtype).to(widest(device))
    misses = summed([~torch.cat(greedy)] if greedy else [])
    return RowScores(loglikelihood, summed(exact) if exact else loglikelihood, misses == 0)


def summed_cross_entropy(
    head: Callable[[Tensor], Tensor], states: Tensor, target: Tensor
) -> Tensor:
    """Summed negative log-likelihood (nats) of `target` [n] given `states` [n, width].

    For a plain linear head, loss and gradient are computed chunk by chunk, so the whole matrix
    [n, vocabulary] is never in memory, neither in the forward nor in the backward pass.
    """
    if _is_plain(head):
        apply: Callable[..., Tensor] = _LinearCrossEntropy.apply
        return apply(states, head.weight, target, head)
    return cross_entropy(head(states).float(), target, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss of `summed_cross_entropy` for a linear head. The gradient is computed with it."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, target: Tensor, head: nn.Linear
    ) -> Tensor:
        loss, count = torch.zeros((), device=states.device), len(states)
        rows = chunk_rows(len(weight), states.device)
        step = _compiled(_loss_and_gradient) if states.is_cuda else _portable_loss_and_gradient
        if not states.is_cuda:
            rows = min(rows, CPU_ROWS)
            states, target = (
                pad(states, (0, 0, 0, -count % rows)),
                pad(target, (0, -count % rows), value=-1),
            )
        needs_gradient = any(ctx.needs_input_grad)
        grad_states = torch.empty_like(states) if needs_gradient else states.new_empty(0)
        # The first chunk overwrites the gradient of the weight. It is zero only without any chunk.
        unset = torch.empty_like if len(states) else torch.zeros_like
        grad_weight = unset(weight) if needs_gradient else weight.new_empty(0)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            logits = float32_logits(head, states[part])
            losses, gradient = step(logits, target[part], states.dtype)
            # Not in the compiled function: a sum of its own depends on the first number of rows
            # that any job on the machine has compiled it for.
            loss += losses.sum()
            del logits
            if needs_gradient:
                torch.mm(gradient, weight, out=grad_states[part])
                grad_weight.addmm_(gradient.t(), states[part], beta=int(start > 0))
            del gradient
        if needs_gradient:
            ctx.save_for_backward(grad_states[:count], grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_states, grad_weight = ctx.saved_tensors
        return grad_states.mul_(grad_loss), grad_weight.mul_(grad_loss), None, None


def _loss_and_gradient(logits: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The losses [n, 1] of `logits` [n, vocabulary]; their gradient by the logits in `dtype`."""
    normalizer = logits.logsumexp(-1, keepdim=True)
    losses = normalizer - logits.gather(-1, target[:, None])
    column = torch.arange(logits.shape[-1], device=logits.device)
    # softmax minus one-hot in one pass over the logits
    gradient = (logits - normalizer).exp() - (column == target[:, None]).float()
    return losses, gradient.to(dtype)


def _portable_loss_and_gradient(
    logits: Tensor, target: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `_loss_and_gradient`, with the same bits on every processor; a target of -1 counts not."""
    counted, column = (target >= 0)[:, None], target.clamp(min=0)[:, None]
    losses = -log_softmax(logits, -1).gather(-1, column) * counted
    gradient = logits.softmax(-1).scatter_add_(-1, column, -torch.ones_like(logits[:, :1]))
    return losses, (gradient * counted).to(dtype)


@cache
def _compiled(function: Callable) -> Callable:
    """`function` compiled into fused kernels, for any number of rows."""
    return torch.compile(function, dynamic=True)
