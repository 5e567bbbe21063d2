"""Writes docs/models.md: what `ablation check` finds for a tiny checkpoint of each family.

    python -m tests.support.models_page docs/models.md [FAMILY ...]

The exit status is 1 if a model was scored wrongly without a refusal, or ended with another error
than a refusal.
"""

import logging
import os
import re
import sys
import tempfile
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
import transformers
from transformers import AutoConfig

from ablation.config.architectures import unsupported_reason
from ablation.scoring.check import REFUSALS, STOCK_ERRORS, StockFails, check
from tests.support.families import FAMILIES, tiny_family
from tests.support.tiny import tiny_tokenizer

AGREES, REFUSED, NOT_TRIED = "agrees", "refused", "not tried"
WRONG, CRASH = "WRONG", "CRASH"  # of which there must be none
MOST_WEIGHTS = 20_000_000
HEAD = """\
# Models

Made by `make test-models` with transformers {version}. For each decoder family of transformers, a
checkpoint with random weights, two layers (or one of each type), width 32 and windows of 7 tokens
was tried as `ablation check FOLDER` tries a folder: float32 on a CPU, eight choices. Try a model
of your own in the same way:

    ablation check path/to/checkpoint

A family **agrees** if log-likelihoods differ by at most 1e-4 nats (times |log-likelihood| / 200
where that is above 1) from stock lm-eval under `causal`, and from a mask made by hand under
`prefill_bidir` and `full_bidir`; if the same holds for narrow and full rows and for one-token
decoding after a bidirectional prefill; and if a saved copy loads to the same scores. The number is
the largest difference found. A family is **refused** where a number would be wrong, with the reason
or the difference found. A family is **not tried** where transformers or stock lm-eval fail on the
tiny checkpoint themselves.

{counts}

| family | verdict | largest difference in nats, or the reason |
|---|---|---|
"""


def verdict(family: str) -> tuple[str, str]:
    """What `ablation check` finds for a family, and the difference or the reason."""
    try:
        model = tiny_family(family)
        weights = sum(weight.numel() for weight in model.parameters())
        if weights > MOST_WEIGHTS:
            raise ValueError(f"the tiny checkpoint has {weights:,} weights")
    except STOCK_ERRORS as error:
        return _unbuilt(family, error)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            model.save_pretrained(scratch)
            tiny_tokenizer().save_pretrained(scratch)
            steps = list(check(scratch))
        except StockFails as error:
            return _unbuilt(family, error.__cause__)
        except REFUSALS as error:
            return REFUSED, _plain(str(error).replace(scratch, ""))
        except Exception as error:  # the page shows what must not be
            return CRASH, _plain(f"{type(error).__name__}: {error}")
    if failed := [f"{step.name}: {step.found}" for step in steps if not step.passed]:
        return WRONG, _plain("; ".join(failed))
    numbers = [float(n) for step in steps for n in re.findall(r"[\d.]+e[-+]\d+", step.found)]
    undecoded = [step.found for step in steps if "not compared" in step.found]
    notes = [f"(decoding {_plain(found)})" for found in undecoded]
    return AGREES, " ".join([f"{max(numbers):.0e}", *notes])


def _unbuilt(family: str, error: BaseException | None) -> tuple[str, str]:
    """Of what has no tiny checkpoint, the configuration may say enough."""
    with suppress(*STOCK_ERRORS):
        if reason := unsupported_reason(AutoConfig.for_model(family).to_dict()):
            return REFUSED, reason
    return NOT_TRIED, _plain(f"{type(error).__name__}: {error}")


def _plain(text: str) -> str:
    text = " ".join(text.replace("|", "/").split())
    text = re.sub(r"^model type '\S+' cannot be ablated by its attention mask: ", "", text)
    text = re.sub(r"^\S+ \(\w+\): ", "", text)
    text = re.split(r"\. Use a decoder|, so its scores here", text)[0]
    return text if len(text) < 240 else f"{text[:236]} ..."


def main(file: str, *families: str) -> int:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)
    found = {}
    for family in families or FAMILIES:
        with redirect_stderr(StringIO()):
            found[family] = verdict(family)
        print(f"{family}: {': '.join(found[family])}", flush=True)
    kinds = [kind for kind, _ in found.values()]
    shown = [k for k in (AGREES, REFUSED, NOT_TRIED, WRONG, CRASH) if k in kinds]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in shown)
    text = HEAD.format(version=transformers.__version__, counts=f"{len(kinds)} families: {counts}.")
    text += "".join(f"| {family} | {kind} | {why} |\n" for family, (kind, why) in found.items())
    Path(file).write_text(text, "utf-8")
    return 1 if {WRONG, CRASH} & set(kinds) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
