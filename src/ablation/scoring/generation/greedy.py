"""Greedy decoding of many prompts: a masked prefill, then one token a step, in refilled slots.

A prompt is read once, in one forward under the mask. Its last state predicts the first token, as it
does when continuations are scored. Decoding is causal. When a sequence ends, its slot takes the
next prompt, so that no forward waits for the longest text of a batch.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ablation.model.masks import forward_inputs
from ablation.model.packing import padded_prompts
from ablation.scoring.generation.decoding_step import DecodingStep
from ablation.scoring.generation.slot_cache import SlotCache

# Tokens of one forward of prompts, padding included; a longer prompt comes alone.
CPU_PREFILL_TOKENS, GPU_PREFILL_TOKENS = 8192, 16_384
CPU_SLOTS, GPU_SLOTS = 32, 256
REFILL = 8  # slots are refilled when one in so many is free: a forward of one prompt costs more
# At the end, slots are given up when one in so many is free. On a GPU that costs new graphs.
CPU_COMPACT, GPU_COMPACT = 4, 2
Ends = Callable[[Sequence[int]], bool]


class Generated(NamedTuple):
    """The new tokens of a prompt, the one that ended them included, and whether one did."""

    tokens: list[int]
    ended: bool


@dataclass
class _Sequence:
    """A prompt in a slot."""

    index: int
    length: int  # tokens in the cache: the prompt, and all new ones but the last
    tokens: list[int] = field(default_factory=list)


class GreedyDecoder:
    """Continues prompts greedily under a mask, as many at a time as there are slots.

    Prompts are taken longest first, so those that are read together have similar lengths. If memory
    runs out, the slots are halved for this task and all later ones; unfinished prompts begin again.

    slots: the number of slots; None for what fits into the memory of the model's device.
    """

    def __init__(self, model: PreTrainedModel, mask: str, slots: int | None = None) -> None:
        self.model, self.mask, self.slots = model, mask, slots

    @torch.inference_mode()
    def run(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        ends: Ends,
        end_tokens: Collection[int] = (),
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Generated]:
        """The greedy continuation of each prompt, of at most `new_tokens` tokens.

        ends: whether the new tokens end there. end_tokens: tokens that end every text. done:
        called with the number of finished prompts. Raises torch.OutOfMemoryError if one prompt is
        too much.
        """
        found: dict[int, Generated] = {}
        longest = max(map(len, prompts), default=0) + new_tokens
        if self.slots is None:
            self.slots = slots_in_memory(self.model, longest)
        while len(found) < len(prompts):
            left = [index for index in range(len(prompts)) if index not in found]
            slots = min(self.slots, len(left))
            batch = _Batch(self, prompts, left, new_tokens, slots)
            try:
                for index, generated in batch.results(ends, end_tokens):
                    found[index] = generated
                    done(len(found))
                continue
            except torch.OutOfMemoryError:
                if slots == 1:
                    raise
            del batch
            self.slots = slots // 2
            print(f"out of memory: now {self.slots} texts at a time", file=sys.stderr)
            torch.cuda.empty_cache()
        return [found[index] for index in range(len(prompts))]

    def choose(self, logits: Tensor) -> Tensor:
        """The next token of each row of logits [rows, vocabulary]: of equal ones, the first."""
        return logits.float().argmax(-1)


class _Batch:
    """The slots, what is in them, and what waits for one."""

    def __init__(
        self,
        decoder: GreedyDecoder,
        prompts: Sequence[Sequence[int]],
        indices: Sequence[int],
        new_tokens: int,
        slots: int,
    ) -> None:
        self.model, self.mask, self.choose = decoder.model, decoder.mask, decoder.choose
        self.prompts, self.new_tokens = prompts, new_tokens
        self.waiting = deque(sorted(indices, key=lambda index: -len(prompts[index])))
        self.slots: list[_Sequence | None] = [None] * slots
        columns = len(prompts[self.waiting[0]]) + new_tokens
        self.cache = SlotCache(len(self.slots), columns)
        self.step = DecodingStep(self.model, self.cache)
        on_gpu = self.model.device.type == "cuda"
        self.prefill_tokens = GPU_PREFILL_TOKENS if on_gpu else CPU_PREFILL_TOKENS
        self.compact = GPU_COMPACT if on_gpu else CPU_COMPACT

    @property
    def held(self) -> dict[int, _Sequence]:
        """{slot: its sequence}."""
        return {n: sequence for n, sequence in enumerate(self.slots) if sequence is not None}

    def results(self, ends: Ends, end_tokens: Collection[int]) -> Iterator[tuple[int, Generated]]:
        """(index, Generated) of each prompt, in the order in which they end."""
        while self.waiting or self.held:
            for advance in (self._refill, self._step):
                for slot, token in advance().items():
                    sequence = self.slots[slot]
                    assert sequence is not None  # only held slots get a token
                    sequence.tokens.append(token)
                    ended = token in end_tokens or ends(sequence.tokens)
                    if ended or len(sequence.tokens) == self.new_tokens:
                        self.slots[slot] = None
                        yield sequence.index, Generated(sequence.tokens, ended)
            self._compact()

    def _refill(self) -> dict[int, int]:
        """Prefill waiting prompts into free slots; {slot: the first new token}."""
        free = [slot for slot, sequence in enumerate(self.slots) if sequence is None]
        if len(free) < len(self.slots) and REFILL * len(free) < len(self.slots):
            return {}
        filled: list[int] = []
        first: list[Tensor] = []  # read once, when all of them were computed
        while free and self.waiting:
            longest = len(self.prompts[self.waiting[0]])
            count = min(len(free), len(self.waiting), max(1, self.prefill_tokens // longest))
            slots, free = free[:count], free[count:]
            indices = [self.waiting.popleft() for _ in slots]
            for slot, index in zip(slots, indices, strict=True):
                self.slots[slot] = _Sequence(index, len(self.prompts[index]))
            filled += slots
            first.append(self._prefill([self.prompts[index] for index in indices], slots))
        return dict(zip(filled, torch.cat(first).tolist(), strict=True)) if first else {}

    def _prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Read prompts under the mask into slots; return what each predicts, token [prompts]."""
        device = self.model.device
        longest = max(map(len, prompts))
        padding = torch.tensor([longest - len(prompt) for prompt in prompts])
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        real = torch.arange(longest) >= padding[:, None]
        rows = padded_prompts(torch.tensor(padded), real).to(device)
        # Without the model's configuration, the cache keeps all tokens in all layers.
        cache = DynamicCache()
        inputs = forward_inputs(self.model, self.mask, rows)
        inputs |= {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        logits = self.model(**inputs).logits[:, -1]
        self.cache.place(cache, torch.tensor(slots, device=device), padding.to(device))
        return self.choose(logits)

    def _step(self) -> dict[int, int]:
        """Decode one token in each slot; {slot: the new token}."""
        held = self.held
        if not held:
            return {}
        last, position = [0] * len(self.slots), [0] * len(self.slots)
        for slot, sequence in held.items():
            last[slot], position[slot] = sequence.tokens[-1], sequence.length
            sequence.length += 1
        chosen = self.choose(self.step(last, position)).tolist()
        return {slot: chosen[slot] for slot in held}

    def _compact(self) -> None:
        """Give up free slots once nothing waits and enough of them are free to pay for the copy."""
        held = self.held
        free = len(self.slots) - len(held)
        if self.waiting or not held or self.compact * free < len(self.slots):
            return
        self.cache.keep(torch.tensor(list(held), device=self.model.device))
        self.slots = list(held.values())
        self.step = DecodingStep(self.model, self.cache)


def slots_in_memory(model: PreTrainedModel, tokens: int) -> int:
    """How many sequences of `tokens` tokens a model decodes side by side on its device."""
    if model.device.type != "cuda":
        return CPU_SLOTS
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_token = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    unused = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = torch.cuda.mem_get_info(model.device)[0] + unused
    # Half of the memory is for prefills, which hold their prompts twice, and for logits.
    return max(1, min(GPU_SLOTS, int(free // 2 // (a_token * tokens))))
