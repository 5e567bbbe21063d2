"""How many tokens a packed row holds while a model scores, and which examples share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

SMALLEST_ROW = 512  # tokens
# Tokens of the longest row for each multiprocessor of a GPU. Matrix products are cut into tiles of
# 128 to 256 tokens, so with this number no multiprocessor idles at their end. Longer rows are not
# faster.
TOKENS_A_PROCESSOR = 64


def fill_batches(lengths: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Batches of indices of `lengths`, longest first, each of `capacity` in sum or one index."""
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and total + lengths[index] > capacity:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += lengths[index]
    if batch:
        yield batch


def row_capacity(model: PreTrainedModel) -> int:
    """The capacity of a row on the model's device, in tokens.

    On a GPU this is the length beyond which rows are not faster, or less if memory is short.
    """
    if model.device.type != "cuda":
        return 256
    config = model.config.get_text_config()
    wide = 8 * config.hidden_size + 4 * getattr(config, "intermediate_size", config.hidden_size)
    held = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = torch.cuda.mem_get_info(model.device)[0] + held
    # Half of the memory is for activations, the rest for logits and buffers of compiled code.
    tokens = int(free // 2 // (wide * model.dtype.itemsize))
    processors = torch.cuda.get_device_properties(model.device).multi_processor_count
    power = 1 << (max(1, tokens).bit_length() - 1)
    return max(SMALLEST_ROW, min(TOKENS_A_PROCESSOR * processors, power))
