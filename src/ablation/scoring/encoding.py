"""Encodes requests in batches: text becomes token ids by the rules of a protocol.

lm_eval's `HFLM` holds the rules: BOS, the trailing spaces of a context, the empty context. It
encodes one string after the other; here the tokenizer encodes all strings of a block at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lm_eval.models.huggingface import HFLM

from ablation.vocabulary.protocols import PROTOCOLS, PUBLISHED_PROTOCOL

# Requests that are encoded and scored together. Rows of one block are not filled up from the next.
BLOCK = 8192
# Characters of the requests that the tokenizer encodes together, which take 100 bytes a token until
# their ids are taken out: a block of prompts of 32k tokens would take tens of GB.
TOGETHER = 2**24
Request = tuple[str, str]  # context and continuation
# A request as HFLM encodes it: its strings or None, and the token ids of both.
EncodedRequest = tuple[Request | None, list[int], list[int]]


class EncodedBlocks:
    """Requests in encoded blocks, which a thread encodes while the first ones are scored.

    They can be read again and again; the requests are encoded once.
    """

    def __init__(self, lm: BatchEncodingLM, requests: Sequence[Request]) -> None:
        pool = ThreadPoolExecutor(1)
        self._blocks: list[Future[list[EncodedRequest]]] = [
            pool.submit(lm.encode, requests[start : start + BLOCK])
            for start in range(0, len(requests), BLOCK)
        ]
        pool.shutdown(wait=False)

    def __iter__(self) -> Iterator[list[EncodedRequest]]:
        return (block.result() for block in self._blocks)


class BatchEncodingLM(HFLM):
    """`HFLM` that encodes in batches.

    protocol: `lm_eval` or `published`. Under `published` no special tokens are added; prompt and
        continuation are tokenized together and cut at the length of the tokenized prompt, so a
        continuation may be merged completely into the prompt.

    Raises ValueError for an unknown protocol.
    """

    def __init__(self, protocol: str, **options: Any) -> None:
        if protocol not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise ValueError(f"unknown protocol {protocol!r}: expected one of {known}")
        super().__init__(**options)
        self._published = protocol == PUBLISHED_PROTOCOL
        self._ids: dict[str, list[int]] = {}

    def encode(self, requests: Sequence[Request]) -> list[EncodedRequest]:
        """The token ids of each (context, continuation)."""
        encode = self._encode_published if self._published else self._encode_request
        encoded: list[EncodedRequest] = []
        for part in _parts(requests):
            self._ids = self._encode_strings(part)
            encoded += [(pair, *encode(*pair)) for pair in part]
        self._ids = {}
        return encoded

    def _encode_request(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context:
            return self._encode_pair(context, continuation)
        # As HFLM's `loglikelihood` does: BOS, or else EOS, predicts the first token.
        ids = self.tok_encode(continuation, add_special_tokens=False)
        prefix = self.prefix_token_id
        return (ids[:1], ids[1:]) if ids[0] == prefix else ([prefix], ids)

    def _encode_published(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        # A byte-level BPE may merge the end of the prompt with the beginning of the continuation.
        # The merged token then counts as prompt.
        whole = self.tok_encode(context + continuation, add_special_tokens=False)
        cut = len(self.tok_encode(context, add_special_tokens=False)) if context else 0
        return whole[:cut], whole[cut:]

    def _encode_strings(self, requests: Sequence[Request]) -> dict[str, list[int]]:
        """The token ids of all strings that HFLM will encode for `requests`, on all cores.

        HFLM encodes contexts without their trailing spaces, which it moves to the continuation.
        """
        published = self._published
        needed = {a + b for a, b in requests} | {
            a if published else a.rstrip() for a, _ in requests
        }
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
        """Encode as HFLM does, or return what `_encode_strings` has encoded already."""
        usual = add_special_tokens is (False if self._published else None)
        if usual and left_truncate_len is None and string in self._ids:
            return self._ids[string]
        return super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs)


def _parts(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """`requests` in parts of about `TOGETHER` characters."""
    start = characters = 0
    for end, (context, continuation) in enumerate(requests, 1):
        characters += len(context) + len(continuation)
        if characters >= TOGETHER or end == len(requests):
            yield requests[start:end]
            start, characters = end, 0
