"""The output head and what is taken from its logits: log-probabilities, and the training loss.

A vocabulary of 131,072 makes a matrix of logits the largest thing in memory. Both functions here
hold only a few thousand rows of it at a time, and take log-sum-exp in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
        normalizer, best = _on_gpu(_normalizer)(logits)
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
        grad_weight = torch.zeros_like(weight) if wanted else None
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
                grad_weight.addmm_(gradient.t(), states[part])
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


def _normalizer(logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.logsumexp(-1), logits.argmax(-1)


@cache
def _on_gpu(function: Callable) -> Callable:
    """`function` as fused kernels, for any number of rows."""
    return torch.compile(function, dynamic=True)
