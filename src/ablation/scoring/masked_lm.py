"""An lm_eval model that scores and generates under any mask, with one copy of a shared prompt.

`ablation.scoring.encoding` handles text by HFLM's rules. This module handles token ids: requests
with the same context become one example with many continuations, examples are packed into rows,
and the head is applied only to positions that predict a token.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ablation.console.progress import Progress
from ablation.model.checks.agreement import require_agreement
from ablation.model.masks import forward_inputs, mask_rule, taken_window, uses_fixed_rows
from ablation.model.output_head import RowScores, score_rows
from ablation.model.packing import Example, Rows, fixed_rows, pack, padded_prompts, token_count
from ablation.model.positions import switch_position, widest_row
from ablation.parallel.collectives import gathered, own_share, rank, ranks
from ablation.scoring.encoding import BatchEncodingLM, EncodedBlocks, EncodedRequest
from ablation.scoring.replayed import ReplayedStates
from ablation.scoring.row_capacity import fill_batches, row_capacity
from ablation.vocabulary.masks import CAUSAL, MASK
from ablation.vocabulary.protocols import LM_EVAL_PROTOCOL

IN_FLIGHT = 2  # forwards that are launched on a GPU before the oldest one has to be done


class Scores(NamedTuple):
    """The scores of requests, as arrays [requests].

    loglikelihood: in nats, over `tokens` predicted tokens; -inf if nothing is left to predict.
    loglikelihood_float32: the same without rounding to `logits_dtype`.
    is_greedy: every predicted token was the most likely one.
    tokens: the number of predicted tokens.
    truncated: the context lost tokens from the left.
    """

    loglikelihood: np.ndarray
    loglikelihood_float32: np.ndarray
    is_greedy: np.ndarray
    tokens: np.ndarray
    truncated: np.ndarray

    def answers(self) -> list[tuple[float, bool]]:
        """(log-likelihood, is_greedy) of each request, as lm_eval takes them."""
        return list(zip(self.loglikelihood.tolist(), self.is_greedy.tolist(), strict=True))


class MaskedLM(BatchEncodingLM):
    """`HFLM` with a mask: it scores choices in packed rows and generates after a masked prefill.

    Several ranks pack the same rows and share out the forwards, so each row is computed as one rank
    would compute it. All ranks get all scores.

    mask: one of `ablation.vocabulary.masks.MASKS`; it may be changed between calls.
    row_tokens, batch_tokens: capacity of a row and of a forward. On a CPU rows as long as one item
        are fastest, because attention is quadratic in a row. Under flex attention a forward is one
        long row of one of few widths, and `row_tokens` None chooses a length that fits into the
        GPU's memory. If memory runs out, both are halved for this batch and all later ones; of
        several ranks, the one that has too little raises torch.OutOfMemoryError.
    logits_dtype: float32 or bfloat16, see `score_rows`.
    protocol: see `BatchEncodingLM`. Under `published` the first token of a continuation without a
        prompt is not scored, and a continuation that is merged completely into the prompt scores
        -inf.
    add_bos_token, max_length: see HFLM.
    label: the beginning of progress lines.

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
        super().__init__(
            protocol,
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
        # Ranks must pack the same rows, and one card may have less memory left than the others.
        self.row_tokens = min(gathered(min(row_tokens or row_capacity(model), self._widest)))
        self.batch_tokens = batch_tokens
        self.logits_dtype = getattr(torch, logits_dtype)
        self.label = label

    @property
    def _keep_last(self) -> bool:
        # A prompt that sees its continuation must see all of it. Otherwise one-token choices, whose
        # only token is the last, would not leak.
        return MASK[self.mask].prompt_sees_response

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score requests as HFLM does, encoding the next block while the GPU scores this one."""
        pairs = [request.args for request in requests]
        blocks = EncodedBlocks(self, pairs)
        answers = self.score(blocks, len(pairs)).answers()
        for pair, answer in zip(pairs, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[EncodedRequest],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is_greedy) of each request."""
        return self.score([requests], len(requests)).answers()

    def score(self, blocks: Iterable[Sequence[EncodedRequest]], requests: int) -> Scores:
        """The scores of all requests in `blocks`, which are `requests` in number.

        The results stay on the GPU until the last block is scored, so that it never waits for one.
        """
        progress = Progress(self.label, requests)
        states_of = ReplayedStates(self.model)
        tokens = np.zeros(requests, dtype=np.int64)
        truncated = np.zeros(requests, dtype=bool)
        owners: list[int] = []  # the request of each score
        scores: list[RowScores] = []
        first = merged = 0
        for block in blocks:
            # Only the published protocol merges a continuation into its prompt. Nothing is scored.
            kept = [i for i, request in enumerate(block) if request[2] or not self._published]
            merged += len(block) - len(kept)
            examples, members, shortened = self._examples([block[i] for i in kept])
            places = [first + i for i in kept]
            truncated[places] = shortened
            tokens[places] = [len(block[i][2]) - (0 if block[i][1] else 1) for i in kept]
            for batch, found in self._scored(examples, states_of, progress, len(owners) + merged):
                owners += [places[member] for index in batch for member in members[index]]
                scores.append(found)
            first += len(block)
        loglikelihood, exact = np.full(requests, -np.inf), np.full(requests, -np.inf)
        is_greedy = np.zeros(requests, dtype=bool)
        columns = (loglikelihood, exact, is_greedy)
        own = [torch.cat(parts).cpu().numpy() for parts in zip(*scores, strict=True)]
        for scored, of_rank in gathered((owners, own)):
            for column, part in zip(columns, of_rank, strict=False):
                column[scored] = part
        if ranks() > 1 and rank() == 0:
            progress.update(requests)
        return Scores(*columns, tokens, truncated)

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
            if not context and not self._published:
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
        self,
        examples: Sequence[Example],
        states_of: ReplayedStates,
        progress: Progress,
        done: int,
    ) -> Iterator[tuple[list[int], RowScores]]:
        """Indices of examples and their scores, batch by batch, in batches that fit into memory.

        done: the number of requests that were scored before.
        """
        together = ranks()
        last = progress.total - (together > 1)  # of several ranks, this one may be done first

        def show(done: int) -> None:
            if rank() == 0:
                progress.update(done)

        running: deque[tuple[torch.cuda.Event, int]] = deque()
        waiting = set(range(len(examples)))
        while waiting:
            try:
                for batch, rows in self._batches(examples, sorted(waiting)):
                    found = score_rows(self.model, rows, self.mask, self.logits_dtype, states_of)
                    waiting.difference_update(batch)
                    done = min(done + rows.continuations * together, last)
                    yield batch, found
                    if self.device.type != "cuda":
                        show(done)
                        continue
                    running.append((torch.cuda.Event(), done))
                    running[-1][0].record()
                    if len(running) > IN_FLIGHT:  # progress counts what the GPU has finished
                        event, past = running.popleft()
                        event.synchronize()
                        show(past)
                break
            except torch.OutOfMemoryError:
                if together > 1:
                    raise
                longest = max(token_count(examples[i], self._keep_last) for i in waiting)
                if (
                    self.row_tokens if uses_fixed_rows(self.model) else self.batch_tokens
                ) <= longest:
                    raise  # one example alone is too much
            self.row_tokens, self.batch_tokens = self.row_tokens // 2, self.batch_tokens // 2
            print(f"{self.label}: out of memory, now rows of {self.row_tokens}", file=sys.stderr)
            states_of.clear()
            torch.cuda.empty_cache()
        if running:
            show(done)

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
            batches: Iterator[tuple[list[int], int | None]] = fixed_rows(lengths, capacity, 1)
        else:
            capacity = max(self.row_tokens, longest)
            batches = ((batch, None) for batch in fill_batches(lengths, self.batch_tokens))
        for members, width in own_share(batches):
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
