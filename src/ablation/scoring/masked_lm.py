"""An lm_eval model that scores and generates under any mask, with one copy of a shared prompt.

lm_eval's `HFLM` handles all text: tokenization, BOS, the trailing-space rule, truncation from the
left. This module handles token ids: requests with the same context become one example with many
continuations, examples are packed into rows, and the head is applied only to positions that
predict a token.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ablation.console.progress import Progress
from ablation.model.checks.agreement import require_agreement
from ablation.model.masks import forward_inputs, mask_rule, taken_window, uses_fixed_rows
from ablation.model.output_head import RowScores, score_rows
from ablation.model.packing import Example, Rows, fixed_rows, pack, padded_prompts, token_count
from ablation.model.positions import switch_position, widest_row
from ablation.scoring.row_capacity import fill_batches, row_capacity
from ablation.vocabulary.masks import CAUSAL, MASK
from ablation.vocabulary.protocols import LM_EVAL_PROTOCOL, PROTOCOLS, PUBLISHED_PROTOCOL

IN_FLIGHT = 2  # forwards that are launched on a GPU before the oldest one has to be done
BLOCK = 2048  # requests that are encoded and scored together
# A request as HFLM encodes it: (context, continuation) or None, and the token ids of both.
EncodedRequest = tuple[tuple[str, str] | None, list[int], list[int]]


@dataclass(frozen=True)
class Score:
    """The score of one request.

    loglikelihood: in nats, over `tokens` predicted tokens.
    loglikelihood_float32: the same without rounding to `logits_dtype`.
    is_greedy: every predicted token was the most likely one.
    truncated: the context lost tokens from the left.
    """

    loglikelihood: float
    loglikelihood_float32: float
    is_greedy: bool
    tokens: int
    truncated: bool


class MaskedLM(HFLM):
    """`HFLM` with a mask: it scores choices in packed rows and generates after a masked prefill.

    mask: one of `ablation.vocabulary.masks.MASKS`; it may be changed between calls.
    row_tokens, batch_tokens: capacity of a row and of a forward. On a CPU rows as long as one item
        are fastest, because attention is quadratic in a row. Under flex attention a forward is one
        long row of one of few widths, and `row_tokens` None chooses a length that fits into the
        GPU's memory. If memory runs out, both are halved for this batch and all later ones.
    logits_dtype: float32 or bfloat16, see `score_rows`.
    protocol: `lm_eval` or `published`. Under `published` no special tokens are added; prompt and
        continuation are tokenized together and cut at the length of the tokenized prompt; the
        first token of a continuation without a prompt is not scored; and a continuation that is
        merged completely into the prompt scores -inf.
    add_bos_token, max_length: see HFLM.
    label: the beginning of progress lines.
    scores: the score of every (context, continuation) so far.

    Raises UnknownMask, ValueError for an unknown protocol, and the errors of `require_agreement`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        mask: str = CAUSAL,
        row_tokens: int | None = 256,
        batch_tokens: int = 512,
        logits_dtype: str = "float32",
        protocol: str = LM_EVAL_PROTOCOL,
        add_bos_token: bool | None = None,
        max_length: int | None = None,
        label: str = "scoring",
    ) -> None:
        mask_rule(mask)
        if protocol not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise ValueError(f"unknown protocol {protocol!r}: expected one of {known}")
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=max(1, batch_tokens // (row_tokens or batch_tokens)),
            add_bos_token=add_bos_token,
            max_length=max_length,
        )
        require_agreement(model)
        self.mask = mask
        self._widest = widest_row(model) or sys.maxsize
        self._switch = switch_position(model.config) or sys.maxsize
        self.row_tokens = min(row_tokens or row_capacity(model), self._widest)
        self.batch_tokens = batch_tokens
        self.logits_dtype = getattr(torch, logits_dtype)
        self.protocol = protocol
        self.label = label
        self.scores: dict[tuple[str, str], Score] = {}
        self._encoded: dict[str, list[int]] = {}
        self._progress: Progress | None = None
        self._answered = 0  # requests of earlier blocks

    @property
    def _keep_last(self) -> bool:
        # A prompt that sees its continuation must see all of it. Otherwise one-token choices, whose
        # only token is the last, would not leak.
        return MASK[self.mask].prompt_sees_response

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score requests as HFLM does, encoding the next block while the GPU scores this one."""
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

    def _loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        if self.protocol == LM_EVAL_PROTOCOL:
            return super().loglikelihood(requests, disable_tqdm=True)
        encoded = [(r.args, *self._encode_published(*r.args)) for r in requests]
        scored = [request for request in encoded if request[2]]
        answers = iter(self._loglikelihood_tokens(scored))
        merged = Score(-math.inf, -math.inf, is_greedy=False, tokens=0, truncated=False)
        self.scores |= {pair: merged for pair, _, continuation in encoded if not continuation}
        return [
            next(answers) if continuation else (-math.inf, False) for _, _, continuation in encoded
        ]

    def _encode(self, requests: Sequence[Instance]) -> dict[str, list[int]]:
        """Encode all strings that HFLM will encode for `requests`, at once on all cores.

        HFLM encodes contexts without their trailing spaces, which it moves to the continuation.
        """
        published = self.protocol == PUBLISHED_PROTOCOL
        pairs = [request.args for request in requests]
        needed = {a + b for a, b in pairs} | {a if published else a.rstrip() for a, _ in pairs}
        prefix = self.tokenizer.decode(self.prefix_token_id)  # before it HFLM adds no BOS
        strings = sorted(s for s in needed if s and (published or not s.startswith(prefix)))
        special = False if published else self.add_bos_token
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not strings:
            return {}
        backend.no_truncation()
        backend.no_padding()
        encoded = backend.encode_batch_fast(strings, add_special_tokens=special is not False)
        return {string: found.ids for string, found in zip(strings, encoded, strict=True)}

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Encode as HFLM does, or return what `_encode` has encoded already."""
        usual = add_special_tokens is (False if self.protocol == PUBLISHED_PROTOCOL else None)
        if usual and left_truncate_len is None and string in self._encoded:
            return self._encoded[string]
        return super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs)

    def _encode_published(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # A byte-level BPE may merge the end of the prompt with the beginning of the continuation.
        # The merged token then counts as prompt.
        whole = self.tok_encode(context + continuation, add_special_tokens=False)
        cut = len(self.tok_encode(context, add_special_tokens=False)) if context else 0
        return whole[:cut], whole[cut:]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[EncodedRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is_greedy) of each request."""
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
        self, requests: Sequence[EncodedRequest]
    ) -> tuple[list[Example], list[list[int]], list[bool]]:
        """The examples that hold `requests`, and two lists about requests.

        These are the indices of the requests of each example, and whether each request lost tokens
        to truncation.

        Requests share a prompt if their whole contexts are equal after truncation, and while
        sharing is cheaper than a second copy of the prompt. A common prefix is not enough, because
        a bidirectional prompt token sees all later prompt tokens. Under a mask that shows the
        continuation to its prompt, no prompt is shared.
        """
        limit = self.max_length + (0 if self._keep_last else 1)
        continuations: list[list[list[int]]] = []
        prompts: list[tuple[int, ...]] = []
        members: list[list[int]] = []
        lengths: list[int] = []
        truncated: list[bool] = []
        open_example: dict[tuple[tuple[int, ...], bool], int] = {}
        for request, (_, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) < limit + (0 if context else 1):
                raise ValueError(
                    f"request {request}: a continuation of {len(continuation)} tokens cannot be "
                    f"scored under {self.mask!r}; expected 1 to {limit - 1} (the model's context)"
                )
            if not context and self.protocol == LM_EVAL_PROTOCOL:
                raise ValueError(
                    f"request {request}: its context is white space, and the tokenizer puts no BOS "
                    "before it, so nothing predicts the first token; stock lm-eval cannot score it "
                    "either. Give it a context of words, or leave the item out"
                )
            room = limit - len(continuation)
            prompt = tuple(context[max(0, len(context) - room) :])
            truncated.append(len(prompt) < len(context))
            new_tokens = len(continuation) - (0 if self._keep_last else 1)
            if len(prompt) + new_tokens > self._widest:
                raise ValueError(
                    f"request {request}: {len(prompt) + new_tokens} tokens found, but the model "
                    f"computes rows of {self._widest} at most as it computes one text: set "
                    "max_length, or leave the task out"
                )
            path = (prompt, len(prompt) + new_tokens > self._switch)
            index = None if self._keep_last else open_example.get(path)
            # Attention is quadratic in a row, so many choices of a short prompt get several rows.
            most = min(max(self.row_tokens, 4 * len(prompt)), self._widest)
            if index is None or lengths[index] + new_tokens > most:
                index = open_example[path] = len(prompts)
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
        """Indices of examples and their scores, batch by batch, in batches that fit into memory."""
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
                    if len(running) > IN_FLIGHT:  # progress counts what the GPU has finished
                        event, past = running.popleft()
                        event.synchronize()
                        progress.update(past)
                continue
            except torch.OutOfMemoryError:
                longest = max(token_count(examples[i], self._keep_last) for i in waiting)
                if (
                    self.row_tokens if uses_fixed_rows(self.model) else self.batch_tokens
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
        """The examples at `indices` as the rows of one forward after the other.

        No forward mixes examples of both kinds of rotary factors that a longrope model has.
        """
        most = self._switch + (0 if self._keep_last else 1)
        kinds: tuple[list[int], list[int]] = ([], [])
        for index in indices:
            longest = max(map(len, examples[index].continuations))
            kinds[len(examples[index].prompt) + longest > most].append(index)
        for kind in filter(None, kinds):
            yield from self._forwards(examples, kind)

    def _forwards(
        self, examples: Sequence[Example], indices: Sequence[int]
    ) -> Iterator[tuple[list[int], Rows]]:
        """The examples at `indices`, longest first, as the rows of one forward after the other."""
        lengths = [token_count(examples[index], self._keep_last) for index in indices]
        longest = max(lengths)
        if uses_fixed_rows(self.model):
            capacity = max(self.row_tokens, longest + -longest % 1024)
            batches: Iterator[tuple[list[int], int | None]] = fixed_rows(lengths, capacity)
        else:
            capacity = max(self.row_tokens, longest)
            batches = ((batch, None) for batch in fill_batches(lengths, self.batch_tokens))
        for members, width in batches:
            batch = [indices[member] for member in members]
            rows = pack(
                [examples[index] for index in batch],
                capacity=width or capacity,
                keep_last=self._keep_last,
                width=width,
            )
            yield batch, rows

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts as HFLM does. Raises ValueError under another mask than `causal`."""
        if self.mask != CAUSAL:
            raise ValueError(
                f"loglikelihood_rolling under mask {self.mask!r}: a text scored as a whole has no "
                "prompt that could be bidirectional. Score it under 'causal', or use a task with "
                "prompts and continuations."
            )
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> Tensor:
        """Generate as HFLM does; under a bidirectional mask after a masked prefill.

        The KV cache then holds all prompt tokens but the last one, with which `generate` starts: a
        causal mask and the bidirectional masks let the last prompt token see the same tokens.
        During prefill there is no continuation that the prompt could see, so `full_bidir` and
        `prefill_bidir` generate the same text.
        """
        window = taken_window(self.model)
        if window and window.when != "prefill":
            raise ValueError("no text can be generated under a window that decoded tokens have too")
        if (MASK[self.mask].bidirectional_prompt or window) and context.shape[1] > 1:
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
        """The KV cache of left-padded prompts [batch, tokens] under the mask, without the last."""
        rows = padded_prompts(context, padding_mask)
        # A cache that is made without the model's configuration keeps all tokens in all layers.
        # The cache of a sliding layer drops tokens and cannot be cropped. The masks of `generate`
        # still apply the window.
        cache = DynamicCache()
        inputs = forward_inputs(self.model, self.mask, rows)
        decoder = self.model.get_decoder()
        whole = decoder if isinstance(decoder, PreTrainedModel) else self.model
        whole(**(inputs | {"past_key_values": cache, "use_cache": True}))
        cache.crop(-1)
        return cache
