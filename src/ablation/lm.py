"""An lm_eval model that scores under any of the three masks, with one copy of a shared prompt.

Everything about text is stock lm_eval (`HFLM`): tokenization, BOS, the trailing-space rule,
truncation from the left. What is ours is what happens to token ids: requests with the same context
become one example with many continuations, examples are packed into rows, and the head is applied
only where something is predicted.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ablation.head import RowScores, score_rows
from ablation.masks import forward_inputs, wants_fixed_rows
from ablation.names import MASKS, PROTOCOLS
from ablation.packing import (
    PADDING_DOC,
    Example,
    Rows,
    fixed_rows,
    pack,
    token_count,
)
from ablation.progress import Progress

IN_FLIGHT = 2  # forwards that a GPU is given ahead of the one it is at
BLOCK = 2048  # requests encoded and scored together
SMALLEST_ROW = 512  # tokens
# Of the longest row, for each multiprocessor: then products, cut into tiles of 128 to 256 tokens,
# leave none idle at their end. Longer rows make a GPU no faster.
TOKENS_A_PROCESSOR = 64


@dataclass(frozen=True)
class Score:
    """One scored request.

    `loglikelihood` in nats over `tokens` predicted tokens, and what it is without rounding to
    `logits_dtype`; `is_greedy`: every one of them was the most likely; `truncated`: the context
    lost tokens from the left.
    """

    loglikelihood: float
    loglikelihood_float32: float
    is_greedy: bool
    tokens: int
    truncated: bool


def _fill(lengths: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Indices of `lengths`, longest first, up to `capacity` at a time, but at least one."""
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


def _row_tokens(model: PreTrainedModel) -> int:
    """Tokens of a row: the most that make a GPU faster, or a power of two that its memory holds."""
    if model.device.type != "cuda":
        return 256
    config = model.config.get_text_config()
    wide = 8 * config.hidden_size + 4 * getattr(config, "intermediate_size", config.hidden_size)
    held = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = torch.cuda.mem_get_info(model.device)[0] + held
    # half for activations: the rest is for logits and what compiled code keeps
    tokens = int(free // 2 // (wide * model.dtype.itemsize))
    processors = torch.cuda.get_device_properties(model.device).multi_processor_count
    power = 1 << (max(1, tokens).bit_length() - 1)
    return max(SMALLEST_ROW, min(TOKENS_A_PROCESSOR * processors, power))


class MaskedLM(HFLM):
    """`HFLM` with a mask: multiple choice by packed rows, generation after a masked prefill.

    mask: one of `ablation.names.MASKS`; may be set between calls.
    row_tokens, batch_tokens: how many a row and a forward hold. On a CPU rows as long as one item
        are fastest (attention is quadratic in a row). Under flex attention a forward is one long
        row, of one of few widths; `row_tokens` None then takes what fits into the GPU's memory.
        Out of memory halves both, for this batch and all after it.
    logits_dtype: float32 or bfloat16, see `score_rows`.
    protocol: `lm_eval`, or `published`: no special tokens; prompt and continuation tokenized
        together and cut at the length of the tokenized prompt; the first token of a continuation
        without a prompt is not scored; one that is merged whole into the prompt scores -inf.
    add_bos_token, max_length: as HFLM.
    scores: what every (context, continuation) scored so far was given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        mask: str = "causal",
        row_tokens: int | None = 256,
        batch_tokens: int = 512,
        logits_dtype: str = "float32",
        protocol: str = "lm_eval",
        add_bos_token: bool | None = None,
        max_length: int | None = None,
        label: str = "scoring",
    ) -> None:
        for name, value, known in (("mask", mask, MASKS), ("protocol", protocol, PROTOCOLS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(known)}")
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=max(1, batch_tokens // (row_tokens or batch_tokens)),
            add_bos_token=add_bos_token,
            max_length=max_length,
        )
        self.mask = mask
        self.row_tokens = row_tokens or _row_tokens(model)
        self.batch_tokens = batch_tokens
        self.logits_dtype = getattr(torch, logits_dtype)
        self.protocol = protocol
        self.label = label
        self.scores: dict[tuple[str, str], Score] = {}
        self._encoded: dict[str, list[int]] = {}
        self._progress: Progress | None = None
        self._answered = 0  # requests, before the block in hand

    @property
    def _keep_last(self) -> bool:
        # Where the prompt sees the continuation it must see all of it, or one-token choices,
        # whose only token is the last, would not leak.
        return self.mask == "full_bidir"

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As HFLM; the strings of the next requests are encoded while the GPU scores these."""
        blocks = [requests[i : i + BLOCK] for i in range(0, len(requests), BLOCK)]
        self._progress = Progress(self.label, len(requests))
        answers: list[tuple[float, bool]] = []
        with ThreadPoolExecutor(1) as pool:
            encoding = pool.submit(self._encode, blocks[0] if blocks else [])
            for block, following in zip(blocks, [*blocks[1:], []], strict=True):
                self._encoded = encoding.result()
                encoding = pool.submit(self._encode, following)
                self._answered = len(answers)
                answers += self._loglikelihood(block)
        self._progress, self._answered, self._encoded = None, 0, {}
        return answers

    def _loglikelihood(self, requests) -> list[tuple[float, bool]]:
        if self.protocol == "lm_eval":
            return super().loglikelihood(requests, disable_tqdm=True)
        encoded = [(r.args, *self._encode_published(*r.args)) for r in requests]
        scored = [request for request in encoded if request[2]]
        answers = iter(self._loglikelihood_tokens(scored))
        merged = Score(-math.inf, -math.inf, is_greedy=False, tokens=0, truncated=False)
        self.scores |= {pair: merged for pair, _, continuation in encoded if not continuation}
        return [
            next(answers) if continuation else (-math.inf, False) for _, _, continuation in encoded
        ]

    def _encode(self, requests) -> dict[str, list[int]]:
        """All strings that will be asked for, encoded at once on all cores.

        HFLM asks for contexts without their trailing spaces, which go to the continuation.
        """
        published = self.protocol == "published"
        pairs = [request.args for request in requests]
        strings = {a + b for a, b in pairs} | {a if published else a.rstrip() for a, _ in pairs}
        prefix = self.tokenizer.decode(self.prefix_token_id)  # after which HFLM adds no BOS
        strings = sorted(s for s in strings if s and (published or not s.startswith(prefix)))
        special = False if published else self.add_bos_token
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not strings:
            return {}
        backend.no_truncation()
        backend.no_padding()
        encoded = backend.encode_batch_fast(strings, add_special_tokens=special is not False)
        return {string: found.ids for string, found in zip(strings, encoded, strict=True)}

    def tok_encode(self, string, add_special_tokens=None, left_truncate_len=None, **kwargs):
        asked = add_special_tokens is (False if self.protocol == "published" else None)
        if asked and left_truncate_len is None and string in self._encoded:
            return self._encoded[string]
        return super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs)

    def _encode_published(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # A byte-level BPE may merge across the seam: the merged token then counts as prompt.
        whole = self.tok_encode(context + continuation, add_special_tokens=False)
        cut = len(self.tok_encode(context, add_special_tokens=False)) if context else 0
        return whole[:cut], whole[cut:]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is_greedy) of each (strings or None, context ids, continuation ids)."""
        examples, members, truncated = self._examples(requests)
        results: list[tuple[float, float, bool]] = [(0.0, 0.0, False)] * len(requests)
        owners: list[int] = []  # the request of each score
        scores: list[RowScores] = []
        for batch, found in self._scored(examples, sum(map(len, members))):
            owners += [request for index in batch for request in members[index]]
            scores.append(found)
        for request, *score in zip(
            owners,
            *(torch.cat(column).tolist() for column in zip(*scores, strict=True)),
            strict=True,
        ):
            results[request] = tuple(score)

        answers = [(loglikelihood, is_greedy) for loglikelihood, _, is_greedy in results]
        for index, (strings, context, continuation) in enumerate(requests):
            if strings is not None:
                tokens = len(continuation) - (0 if context else 1)
                self.scores[strings] = Score(*results[index], tokens, truncated[index])
                self.cache_hook.add_partial("loglikelihood", strings, answers[index])
        return answers

    def _examples(
        self, requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]]
    ) -> tuple[list[Example], list[list[int]], list[bool]]:
        """Requests as examples; the indices of the requests in each; which lost tokens.

        Requests share a prompt when their whole context is equal, token by token, after truncation
        (a common prefix would not do: a bidirectional prompt token sees what follows it), and while
        that is cheaper than a second copy of the prompt. Under `full_bidir` the prompt sees its
        continuation and is never shared.
        """
        limit = self.max_length + (0 if self._keep_last else 1)
        continuations: list[list[list[int]]] = []
        prompts: list[tuple[int, ...]] = []
        members: list[list[int]] = []
        lengths: list[int] = []
        truncated: list[bool] = []
        open_example: dict[tuple[int, ...], int] = {}
        for request, (_, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) < limit + (0 if context else 1):
                raise ValueError(
                    f"request {request}: a continuation of {len(continuation)} tokens cannot be "
                    f"scored under {self.mask!r}; expected 1 to {limit - 1} (the model's context)"
                )
            room = limit - len(continuation)
            prompt = tuple(context[max(0, len(context) - room) :])
            truncated.append(len(prompt) < len(context))
            new_tokens = len(continuation) - (0 if self._keep_last else 1)
            index = None if self._keep_last else open_example.get(prompt)
            # Attention is quadratic in a row: a thousand choices of a short prompt make many rows.
            most = max(self.row_tokens, 4 * len(prompt))
            if index is None or lengths[index] + new_tokens > most:
                index = open_example[prompt] = len(prompts)
                prompts.append(prompt)
                continuations.append([])
                members.append([])
                lengths.append(len(prompt))
            continuations[index].append(continuation)
            members[index].append(request)
            lengths[index] += new_tokens
        examples = [Example(p, c) for p, c in zip(prompts, continuations, strict=True)]
        return examples, members, truncated

    def _scored(
        self, examples: Sequence[Example], continuations: int
    ) -> Iterator[tuple[list[int], RowScores]]:
        """Indices of examples and their scores, batch by batch, within the memory there is."""
        progress = self._progress or Progress(self.label, continuations)
        done = self._answered
        running: deque[tuple[torch.cuda.Event, int]] = deque()
        waiting = set(range(len(examples)))
        while waiting:
            try:
                for batch, rows in self._batches(examples, sorted(waiting)):
                    found = score_rows(self.model, rows, self.mask, self.logits_dtype)
                    waiting.difference_update(batch)
                    done += rows.continuations
                    yield batch, found
                    if self.device.type != "cuda":
                        progress.update(done)
                        continue
                    running.append((torch.cuda.Event(), done))
                    running[-1][0].record()
                    if len(running) > IN_FLIGHT:  # progress tells what the GPU has done
                        event, past = running.popleft()
                        event.synchronize()
                        progress.update(past)
                continue
            except torch.OutOfMemoryError:
                longest = max(token_count(examples[i], self._keep_last) for i in waiting)
                if (
                    self.row_tokens if wants_fixed_rows(self.model) else self.batch_tokens
                ) <= longest:
                    raise  # one example alone is too much
            self.row_tokens, self.batch_tokens = self.row_tokens // 2, self.batch_tokens // 2
            print(f"{self.label}: out of memory, now rows of {self.row_tokens}", file=sys.stderr)
            torch.cuda.empty_cache()
        if running:
            progress.update(done)

    def _batches(
        self, examples: Sequence[Example], indices: Sequence[int]
    ) -> Iterator[tuple[list[int], Rows]]:
        """The examples at `indices`, longest first, as what one forward holds: at least one."""
        lengths = [token_count(examples[index], self._keep_last) for index in indices]
        longest = max(lengths)
        if wants_fixed_rows(self.model):
            capacity = max(self.row_tokens, longest + -longest % 1024)
            batches = fixed_rows(lengths, capacity)
        else:
            capacity = max(self.row_tokens, longest)
            batches = ((batch, None) for batch in _fill(lengths, self.batch_tokens))
        for members, width in batches:
            batch = [indices[member] for member in members]
            rows = pack(
                [examples[index] for index in batch],
                capacity=width or capacity,
                keep_last=self._keep_last,
                width=width,
            )
            yield batch, rows

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        if self.mask != "causal":
            raise ValueError(
                f"loglikelihood_rolling under mask {self.mask!r}: a text scored as a whole has no "
                "prompt that could be bidirectional. Score it under 'causal', or use a task with "
                "prompts and continuations."
            )
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs
    ) -> Tensor:
        """Stock generation; under a bidirectional mask it starts from a masked prefill.

        The cache holds all prompt tokens but the last, which stock `generate` then feeds itself:
        the last prompt token sees everything in both. There is no continuation that the prompt
        could see, so that `full_bidir` generates as `prefill_bidir` does.
        """
        if self.mask != "causal" and context.shape[1] > 1:
            for name in ("num_beams", "num_return_sequences"):
                default = getattr(self.model.generation_config, name, None)
                if (generation_kwargs.get(name, default) or 1) > 1:
                    raise ValueError(f"{name} > 1 cannot start from a masked prefill; set it to 1")
            generation_kwargs["past_key_values"] = self._prefill(
                context, generation_kwargs["attention_mask"]
            )
        return super()._model_generate(context, max_length, stop, **generation_kwargs)

    @torch.no_grad()
    def _prefill(self, context: Tensor, padding_mask: Tensor) -> DynamicCache:
        """Keys and values of left-padded prompts [batch, tokens] under the mask, but the last."""
        nothing = context.new_empty(0)
        rows = Rows(
            input_ids=context,
            doc=torch.where(padding_mask.bool(), 0, PADDING_DOC),
            branch=torch.zeros_like(context),
            position_ids=(padding_mask.long().cumsum(-1) - 1).clamp(min=0),
            target_row=nothing,
            target_position=nothing,
            target_id=nothing,
            target_owner=nothing,
            continuations=0,
        )
        # Made without the model's config, all its layers keep all tokens: a sliding layer that had
        # forgotten some could not be cropped. Its window is still in stock generate's masks.
        cache = DynamicCache()
        inputs = forward_inputs(self.model, self.mask, rows)
        self.model.get_decoder()(**(inputs | {"past_key_values": cache, "use_cache": True}))
        cache.crop(-1)
        return cache
