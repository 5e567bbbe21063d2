"""Where a generated text ends: at a stop string, as lm_eval's HFLM finds it one text at a time."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval.models.utils import postprocess_generated_text
from transformers import PreTrainedTokenizerBase

# As in lm_eval: a stop string may be generated in more tokens than it is encoded in.
MORE_TOKENS = 2
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to


class StopStrings:
    """The stop strings of a task, its end-of-text string among them.

    HFLM decodes the last tokens of every text for every stop string after every token. A stop
    string can end only with a token that holds its last character, so that here most tokens need no
    decoding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._tokens = {
            stop: len(tokenizer.encode(stop, add_special_tokens=False)) + MORE_TOKENS
            for stop in self._stops
        }
        self._lasts = {stop[-1] for stop in self._stops}
        self._can_end: dict[int, bool] = {}

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string ends with the last of the generated `tokens`."""
        last = tokens[-1]
        if last not in self._can_end:
            self._can_end[last] = self._may_end(last)
        if not self._can_end[last]:
            return False
        tails: dict[int, str] = {}
        for stop, count in self._tokens.items():
            if count not in tails:
                tails[count] = str(self._tokenizer.decode(list(tokens[-count:])))
            if stop in tails[count]:
                return True
        return False

    def _may_end(self, token: int) -> bool:
        text = str(self._tokenizer.decode([token]))
        spaces = " " in self._lasts  # a tokenizer may write them only before the next token
        return spaces or not text or UNFINISHED in text or any(c in text for c in self._lasts)

    def cut(self, text: str) -> str:
        """`text` up to the first stop string in it."""
        return postprocess_generated_text(text, self._stops, None)
