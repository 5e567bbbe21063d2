"""The metric exact_match of generation tasks, computed again from stored texts.

lm_eval computes it while a model generates. Here it is computed from the text alone: the filters
are lm_eval's own, and a right answer is known by its hash, so that no row holds a text of a
benchmark.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ablation.provenance.files import sha256_text

FIRST = "take_first"  # the filter that makes one answer of a list, which each ends with
# lm_eval's filters that depend on nothing but the text.
TEXT_FILTERS = ("regex", "remove_whitespace", FIRST, "lowercase", "uppercase")
Steps = Sequence[Mapping[str, Any]]  # of a filter: {"function": its name, further arguments}


def answers(texts: Iterable[str], steps: Steps) -> list[str]:
    """What a filter takes out of each text. `steps` are those of its entry in `filter_list`."""
    from lm_eval.filters import get_filter  # not torch, but a sixth of a second

    found: Any = [[text] for text in texts]
    for step in steps:
        options = {key: value for key, value in step.items() if key != "function"}
        found = list(get_filter(step["function"])(**options).apply(found, [{} for _ in found]))
    return found


def normalized(text: str, options: Mapping[str, Any]) -> str:
    """`text` as lm_eval's exact_match compares it with these options of a task's metric."""
    for pattern in options.get("regexes_to_ignore") or ():
        text = re.sub(pattern, "", text)
    if options.get("ignore_case"):
        text = text.lower()
    ignored = string.punctuation if options.get("ignore_punctuation") else ""
    ignored += string.digits if options.get("ignore_numbers") else ""
    return text.translate(str.maketrans("", "", ignored))


def reference(answer: str, options: Mapping[str, Any]) -> str:
    """The hash by which a right answer is known."""
    return sha256_text(normalized(answer, options))


def is_match(answer: str, references: str, options: Mapping[str, Any]) -> bool:
    """Whether `answer` is one of the right ones, whose hashes are in `references`."""
    return reference(answer, options) in references.split()
