"""The output head and what is taken from its logits: log-probabilities, and the training loss.

A vocabulary of 131,072 makes a matrix of logits the largest thing in memory. What is here
holds only a few thousand rows of it at a time, and takes log-sum-exp in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ablation.models import last_states
from ablation.packing import Rows, moved

# Logits held at once. 24 MB stay below the 32 MB from which glibc maps fresh pages for every array.
CHUNK = {"cpu": 6_000_000, "cuda": 2**28}


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """How many rows of logits are held at once."""
    return max(1, CHUNK.get(device.type, 2**27) // vocabulary)


def float32_logits(head: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """`head(states)` in float32; on a GPU the product's float32 sums, never rounded to bfloat16."""
    if states.is_cuda and _is_plain(head) and states.dtype != torch.float32:
        return torch.mm(states, head.weight.t(), out_dtype=torch.float32)
    return head(states).float()


def _is_plain(head: Callable[[Tensor], Tensor]) -> bool:
    return isinstance(head, nn.Linear) and head.bias is None


def token_scores(logits: Tensor, row: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """log softmax of `logits` [rows, vocabulary] at (row, token), in their dtype; is it the argmax?

    Of equals the first is the argmax. float32 `logits` are consumed. Both are [tokens].
    """
    if logits.is_cuda and logits.dtype == torch.float32:
        from ablation.head_kernels import normalizers  # needs Triton

        normalizer, best = normalizers(logits)
        return logits[row, token] - normalizer[row], best[row] == token
    if logits.is_cuda:
        return torch.log_softmax(logits, -1)[row, token], logits.argmax(-1)[row] == token
    hit = logits[row, token] == logits.amax(-1)[row]
    hit[hit.clone()] = logits[row[hit]].argmax(-1) == token[hit]
    if logits.dtype != torch.float32:
        return torch.log_softmax(logits, -1)[row, token], hit
    # In place: a third of log_softmax's time, because no second matrix of this size is written.
    logits -= logits.amax(-1, keepdim=True)
    picked = logits[row, token]
    return picked - logits.exp_().sum(-1).log()[row], hit


class RowScores(NamedTuple):
    """What `score_rows` finds of each continuation, as tensors [continuations]."""

    loglikelihood: Tensor  # nats, summed in float64
    loglikelihood_float32: Tensor
    is_greedy: Tensor  # bool


@torch.no_grad()
def score_rows(
    model: PreTrainedModel, rows: Rows, mask: str, logits_dtype: torch.dtype = torch.float32
) -> RowScores:
    """Score every continuation of `rows` (in host memory) under `mask`, on the model's device.

    Launches work and does not wait for it. `logits_dtype` bfloat16 rounds logits,
    log-probabilities and their sum as the published scorer did; a quarter of all four-choice items
    may then tie. `loglikelihood_float32` is of the same forward with log-softmax and sum in
    float32.
    """
    device = model.device
    predictor = rows.target_row * rows.input_ids.shape[1] + rows.target_position
    # Choices that share a prompt share its last position: its logits are computed once.
    predictor, used_by = predictor.unique(return_inverse=True)
    used_by, order = used_by.sort()
    size = chunk_rows(model.config.get_text_config().vocab_size, device)
    bounds = torch.searchsorted(used_by, torch.arange(0, len(predictor) + size, size)).tolist()
    predictor, used_by, target_id, owner = (
        moved(t, device)
        for t in (predictor, used_by, rows.target_id[order], rows.target_owner[order])
    )

    states, head = last_states(model, rows.to(device), mask)
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
        # One addition after the other: in float32 thirty of them cost more than the whole forward.
        sums = torch.zeros(rows.continuations, device=device, dtype=torch.float64)
        return sums.index_add_(0, owner, torch.cat(values).double()) if values else sums

    loglikelihood = summed(logprobs)
    if logits_dtype != torch.float32:
        loglikelihood = loglikelihood.to(logits_dtype).double()
    misses = summed([~torch.cat(greedy)] if greedy else [])
    return RowScores(loglikelihood, summed(exact) if exact else loglikelihood, misses == 0)


def summed_cross_entropy(
    head: Callable[[Tensor], Tensor], states: Tensor, target: Tensor
) -> Tensor:
    """Summed negative log-likelihood (nats) of `target` [n] given `states` [n, width].

    A plain linear head is differentiated chunk by chunk while the logits are there: the matrix
    [n, vocabulary] is never whole in memory, in neither direction.
    """
    if _is_plain(head):
        return _LinearCrossEntropy.apply(states, head.weight, target, head)
    return cross_entropy(head(states).float(), target, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, target: Tensor, head: nn.Linear) -> Tensor:
        loss = torch.zeros((), device=states.device)
        wanted = any(ctx.needs_input_grad)
        grad_states = torch.empty_like(states) if wanted else None
        # nothing to add the first chunk to, so nothing to clear, where there is a first chunk
        empty = torch.empty_like if len(states) else torch.zeros_like
        grad_weight = empty(weight) if wanted else None
        step = _on_gpu(_loss_and_gradient) if states.is_cuda else _loss_and_gradient
        size = chunk_rows(len(weight), states.device)
        for start in range(0, len(states), size):
            part = slice(start, start + size)
            logits = float32_logits(head, states[part])
            lost, gradient = step(logits, target[part], states.dtype)
            loss += lost
            del logits
            if wanted:
                torch.mm(gradient, weight, out=grad_states[part])
                grad_weight.addmm_(gradient.t(), states[part], beta=int(start > 0))
            del gradient
        if wanted:
            ctx.save_for_backward(grad_states, grad_weight)
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor):
        grad_states, grad_weight = ctx.saved_tensors
        return grad_states.mul_(grad_loss), grad_weight.mul_(grad_loss), None, None


def _loss_and_gradient(logits: Tensor, target: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    normalizer = logits.logsumexp(-1, keepdim=True)
    loss = (normalizer - logits.gather(-1, target[:, None])).sum()
    column = torch.arange(logits.shape[-1], device=logits.device)
    # softmax minus one-hot in one pass over the logits
    gradient = (logits - normalizer).exp() - (column == target[:, None]).float()
    return loss, gradient.to(dtype)


@cache
def _on_gpu(function: Callable) -> Callable:
    """`function` as fused kernels, for any number of rows."""
    return torch.compile(function, dynamic=True)
