"""Writes docs/models.md: what `ablation check` finds for a tiny checkpoint of each family.

    python -m tests.support.models_page docs/models.md [FAMILY ...]

The exit status is 1 if a model was scored wrongly and not refused, or if its test ended with an
error that is not a refusal.
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
WRONG, CRASH = "WRONG", "CRASH"  # errors of this project; the page must have none
MOST_WEIGHTS = 20_000_000
HEAD = """\
# Models

`make test-models` writes this page, here with transformers {version}. For each decoder family of
transformers it makes a tiny checkpoint: random weights, two layers (or one of each type), width 32,
and windows of 7 tokens. Then it runs the tests of `ablation check FOLDER` on this checkpoint, in
float32 on a CPU, with eight choices in all. Test a model of your own in the same way:

    ablation check path/to/checkpoint

A family **agrees** if all of these hold, with log-likelihoods that differ by at most 1e-4 nats
(times |log-likelihood| / 200 where that is above 1):

- under `causal` its scores are those of stock lm-eval;
- under `prefill_bidir` and `full_bidir` they are those of a mask that the test makes by hand;
- they are the same in narrow rows, in full rows, and when tokens are decoded one by one after a
  bidirectional prefill;
- a saved copy of the checkpoint loads to the same scores.

The number is the largest difference found. A family is **refused** if its scores would be wrong;
the table has the reason, or the difference found. A family is **not tried** if transformers or
stock lm-eval themselves fail on the tiny checkpoint.

{counts}

| family | result | largest difference in nats, or the reason |
|---|---|---|
"""


def result(family: str) -> tuple[str, str]:
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
        except Exception as error:  # the page shows the crash
            return CRASH, _plain(f"{type(error).__name__}: {error}")
    if failed := [f"{step.name}: {step.found}" for step in steps if not step.passed]:
        return WRONG, _plain("; ".join(failed))
    numbers = [float(n) for step in steps for n in re.findall(r"[\d.]+e[-+]\d+", step.found)]
    undecoded = [step.found for step in steps if "not compared" in step.found]
    notes = [f"(decoding {_plain(found)})" for found in undecoded]
    return AGREES, " ".join([f"{max(numbers):.0e}", *notes])


def _unbuilt(family: str, error: BaseException | None) -> tuple[str, str]:
    """The result for a family without a tiny checkpoint: its configuration may give a reason."""
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
            found[family] = result(family)
        print(f"{family}: {': '.join(found[family])}", flush=True)
    kinds = [kind for kind, _ in found.values()]
    shown = [k for k in (AGREES, REFUSED, NOT_TRIED, WRONG, CRASH) if k in kinds]
    counts = ", ".join(f"{kind} {kinds.count(kind)}" for kind in shown)
    text = HEAD.format(version=transformers.__version__, counts=f"{len(kinds)} families: {counts}.")
    text += "".join(f"| {family} | {kind} | {why} |\n" for family, (kind, why) in found.items())
    Path(file).write_text(text, "utf-8")
    return 1 if {WRONG, CRASH} & set(kinds) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
