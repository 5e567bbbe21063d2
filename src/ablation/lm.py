"""An lm_eval model that scores under any of the three masks, with one copy of a shared prompt.

Everything about text is stock lm_eval (`HFLM`): tokenization, BOS, the trailing-space rule,
truncation from the left. What is ours is what happens to token ids: requests with the same context
become one example with many continuations, examples are packed into rows, and the head is applied
only where something is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ablation.masks import attention_mask
from ablation.models import last_states
from ablation.names import MASKS, PROTOCOLS
from ablation.packing import PADDING_DOC, Example, Rows, pack, token_count
from ablation.progress import Progress

# Logits held at once. 24 MB stay below the 32 MB from which glibc maps fresh pages for every array.
HEAD_CHUNK = {"cpu": 6_000_000, "cuda": 2**29}


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


class RowScores(NamedTuple):
    """What `score_rows` finds of each continuation, as tensors [continuations]."""

    loglikelihood: Tensor  # nats
    loglikelihood_float32: Tensor
    is_greedy: Tensor  # bool


@torch.no_grad()
def score_rows(
    model: PreTrainedModel, rows: Rows, mask: str, logits_dtype: torch.dtype = torch.float32
) -> RowScores:
    """Score every continuation of `rows` under `mask`.

    `logits_dtype` bfloat16 rounds logits, log-probabilities and their sum as the published scorer
    did; a quarter of all four-choice items may then tie. `loglikelihood_float32` is of the same
    forward with log-softmax and sum in float32.
    """
    states, head = last_states(model, rows, mask)
    states = states.flatten(0, 1)
    predictor = rows.target_row * rows.input_ids.shape[1] + rows.target_position
    # Choices that share a prompt share its last position: its logits are computed once.
    predictor, used_by = predictor.unique(return_inverse=True)
    used_by, order = used_by.sort()
    target_id, owner = rows.target_id[order], rows.target_owner[order]

    vocabulary = model.config.get_text_config().vocab_size
    size = max(1, HEAD_CHUNK.get(states.device.type, 2**27) // vocabulary)
    logprobs, exact, greedy = [], [], []
    bounds = torch.searchsorted(
        used_by, torch.arange(0, len(predictor) + size, size, device=used_by.device)
    ).tolist()
    for chunk, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        unrounded = head(states[predictor[chunk * size : (chunk + 1) * size]])
        logits = unrounded.to(logits_dtype)
        here, wanted = used_by[start:end] - chunk * size, target_id[start:end]
        greedy.append(_is_argmax(logits, here, wanted))
        logprobs.append(_logprobs(logits, here, wanted))
        if logits_dtype != torch.float32:
            exact.append(_logprobs(unrounded.float(), here, wanted))

    def summed(values: list[Tensor]) -> Tensor:
        # One addition after the other: in float32 thirty of them cost more than the whole forward.
        sums = torch.zeros(rows.continuations, device=owner.device, dtype=torch.float64)
        return sums.index_add_(0, owner, torch.cat(values).double()) if values else sums

    loglikelihood = summed(logprobs)
    if logits_dtype != torch.float32:
        loglikelihood = loglikelihood.to(logits_dtype)
    misses = summed([~torch.cat(greedy)] if greedy else [])
    return RowScores(loglikelihood, summed(exact) if exact else loglikelihood, misses == 0)


def _is_argmax(logits: Tensor, row: Tensor, token: Tensor) -> Tensor:
    """Whether `token` is the argmax of its row of `logits` (of equals the first, as argmax)."""
    hit = logits[row, token] == logits.amax(-1)[row]
    hit[hit.clone()] = logits[row[hit]].argmax(-1) == token[hit]
    return hit


def _logprobs(logits: Tensor, row: Tensor, token: Tensor) -> Tensor:
    """log softmax of `logits` at (row, token), in their dtype; float32 `logits` are consumed."""
    if logits.dtype != torch.float32:
        return torch.log_softmax(logits, -1)[row, token]
    # In place: a third of log_softmax's time, because no second matrix of this size is written.
    logits -= logits.amax(-1, keepdim=True)
    picked = logits[row, token]
    return picked - logits.exp_().sum(-1).log()[row]


class MaskedLM(HFLM):
    """`HFLM` with a mask: multiple choice by packed rows, generation after a masked prefill.

    mask: one of `ablation.names.MASKS`; may be set between calls.
    row_tokens, batch_tokens: how many a row and a forward hold. On a CPU rows as long as one item
        are fastest (attention is quadratic in a row); a GPU with flex attention wants one long row.
    pad_rows: make every row `row_tokens` wide, so that compiled attention sees one shape.
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
        row_tokens: int = 256,
        batch_tokens: int = 512,
        pad_rows: bool = False,
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
            batch_size=max(1, batch_tokens // row_tokens),
            add_bos_token=add_bos_token,
            max_length=max_length,
        )
        self.mask = mask
        self.row_tokens = row_tokens
        self.batch_tokens = batch_tokens
        self.pad_rows = pad_rows
        self.logits_dtype = getattr(torch, logits_dtype)
        self.protocol = protocol
        self.label = label
        self.scores: dict[tuple[str, str], Score] = {}

    @property
    def _keep_last(self) -> bool:
        # Where the prompt sees the continuation it must see all of it, or one-token choices,
        # whose only token is the last, would not leak.
        return self.mask == "full_bidir"

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
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
        progress, done = Progress(self.label, len(requests)), 0
        for batch in self._batches(examples):
            longest = token_count(examples[batch[0]], self._keep_last)
            capacity = max(self.row_tokens, longest)
            rows = pack(
                [examples[index] for index in batch],
                capacity=capacity,
                keep_last=self._keep_last,
                width=capacity if self.pad_rows else None,
            )
            scores = score_rows(self.model, rows.to(self.device), self.mask, self.logits_dtype)
            owners = [request for index in batch for request in members[index]]
            for request, *score in zip(owners, *(s.tolist() for s in scores), strict=True):
                results[request] = tuple(score)
            done += len(owners)
            progress.update(done)

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
            whole = [*context, *continuation][-limit:]
            prompt = tuple(whole[: len(whole) - len(continuation)])
            truncated.append(len(whole) < len(context) + len(continuation))
            new_tokens = len(continuation) - (0 if self._keep_last else 1)
            index = None if self._keep_last else open_example.get(prompt)
            # Attention is quadratic in a row: a thousand choices of a short prompt make many rows.
            room = max(self.row_tokens, 4 * len(prompt))
            if index is None or lengths[index] + new_tokens > room:
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

    def _batches(self, examples: Sequence[Example]) -> Iterator[list[int]]:
        """Indices of examples, longest first, up to `batch_tokens` at a time, but at least one."""
        lengths = [token_count(example, self._keep_last) for example in examples]
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(examples)), key=lambda i: -lengths[i]):
            if batch and tokens + lengths[index] > self.batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += lengths[index]
        if batch:
            yield batch

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
        self.model.get_decoder()(
            input_ids=context,
            attention_mask=attention_mask(self.model, self.mask, rows),
            position_ids=rows.position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        cache.crop(-1)
        return cache
