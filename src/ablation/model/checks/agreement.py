"""Compares a model with its own stock forward, and refuses one that differs.

In the rows of this package position ids and a ready mask say what a token sees. A model may count
positions or windows in another way, or may not be causal at all. The stock forward of one sequence,
without mask and positions, shows what the model computes for everyone else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.model.checks.supported import UnsupportedArchitecture
from ablation.model.forward import target_logits, uncompiled
from ablation.model.masks import whole_masks
from ablation.model.packing import Example, Rows, pack
from ablation.model.positions import most_positions, widest_row, windows
from ablation.vocabulary.masks import CAUSAL

LONGEST_WINDOW = 512  # tokens of the longest window that is exceeded in every job
PROMPT, SECOND, BEHIND = 12, 16, 9  # tokens of the prompt, the second choice, another document
# Largest accepted differences, as shares of the largest logit. Below float32 each sum is rounded in
# another order in rows of another shape, and a router may choose other experts for single tokens:
# there the median difference over the tokens counts, in float32 the largest.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 6e-2}
LAYOUTS = {
    "plain": "one sequence alone",
    "packed": "the same sequence packed behind another document",
    "branch": "the second choice of a shared prompt",
}


# What the forwards of transformers raise for inputs that they cannot take.
FORWARD_ERRORS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
)


class DiffersFromStock(RuntimeError):
    """In the rows of this package the model gives other logits than in its stock forward."""


@dataclass(frozen=True)
class Agreement:
    """Differences of log-probabilities from the stock forward, in nats a token.

    plain: of one sequence alone.
    packed: of the same sequence packed behind another document.
    branch: of the second choice of a prompt, behind the sequence as its first choice.
    tolerance: larger differences are refused.
    tokens: the length of the sequence.
    dtype: of the model. In float32 the largest difference over the tokens counts, else the median.
    """

    plain: float
    packed: float
    branch: float
    tolerance: float
    tokens: int
    dtype: str

    def as_dict(self) -> dict[str, str | float | int]:
        return asdict(self)


_compared: WeakKeyDictionary[PreTrainedModel, Agreement] = WeakKeyDictionary()


def require_agreement(model: PreTrainedModel) -> Agreement:
    """Compare `model` with its stock forward, once for each model.

    The sequence is longer than every window of at most LONGEST_WINDOW tokens. A window that an
    intervention puts over the masks is lifted for the comparison. Raises
    DiffersFromStock if a difference exceeds the tolerance, and UnsupportedArchitecture if the
    model cannot run with a ready mask and position ids.
    """
    if model not in _compared:
        _compared[model] = _compare(model)
    return _compared[model]


@torch.no_grad()
def _compare(model: PreTrainedModel) -> Agreement:
    config = model.config.get_text_config()
    reach = max((w for w in windows(config).values() if w <= LONGEST_WINDOW), default=0)
    positions, widest = most_positions(config) or 10**6, widest_row(model) or 10**6
    length, second_length = min(PROMPT, positions // 3), min(SECOND, positions // 3)
    room = min(positions - length, widest - length - second_length - BEHIND)
    first_length = max(2, min(max(reach + 8, 2 * SECOND), room))
    generator = torch.Generator().manual_seed(0)

    def random_ids(count: int) -> list[int]:
        low = min(3, config.vocab_size - 1)
        return torch.randint(low, config.vocab_size, (count,), generator=generator).tolist()

    prompt, first, second, other = (
        random_ids(count) for count in (length, first_length, second_length, BEHIND)
    )
    behind = Example(other[:1], [other[1:]])
    was_training = model.training
    model.eval()
    try:
        with uncompiled(model), whole_masks(model):
            first_stock, largest = _stock(model, prompt, first)
            second_stock, _ = _stock(model, prompt, second)
            try:
                plain = _scores(model, pack([Example(prompt, [first])], capacity=10**6))[0]
                shared = pack([behind, Example(prompt, [first, second])], capacity=10**6)
                _, packed, branch = _scores(model, shared)
            except torch.OutOfMemoryError:
                raise
            except FORWARD_ERRORS as error:
                raise UnsupportedArchitecture(
                    f"{_name(model)}: its forward fails with a ready attention mask and position "
                    f"ids, which every row here needs ({type(error).__name__}: "
                    f"{str(error).splitlines()[0] if str(error) else 'no message'})"
                ) from error
    finally:
        model.train(was_training)
    differences = {
        "plain": _difference(model, plain, first_stock),
        "packed": _difference(model, packed, first_stock),
        "branch": _difference(model, branch, second_stock),
    }
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]) * max(1.0, largest)
    dtype = str(model.dtype).removeprefix("torch.")
    tokens = length + first_length
    agreement = Agreement(**differences, tolerance=tolerance, tokens=tokens, dtype=dtype)
    _refuse(model, agreement)
    return agreement


def _stock(
    model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int]
) -> tuple[Tensor, float]:
    """The stock log-probability of each token of `continuation`, and the largest logit."""
    ids = torch.tensor([[*prompt, *continuation]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    target = torch.tensor(continuation, device=model.device)[:, None]
    return logits.log_softmax(-1).gather(1, target)[:, 0], float(logits.abs().max())


def _scores(model: PreTrainedModel, rows: Rows) -> list[Tensor]:
    """The log-probability of each token of each continuation of `rows`, scored as everywhere."""
    rows = rows.to(model.device)
    logits = target_logits(model, rows, CAUSAL).float().log_softmax(-1)
    scores = logits.gather(1, rows.target_id[:, None])[:, 0]
    return [scores[rows.target_owner == owner] for owner in range(rows.continuations)]


def _difference(model: PreTrainedModel, found: Tensor, expected: Tensor) -> float:
    differences = (found - expected).abs()
    if not torch.isfinite(differences).all():
        return float("inf")
    return float(differences.max() if model.dtype == torch.float32 else differences.median())


def _refuse(model: PreTrainedModel, agreement: Agreement) -> None:
    for name, layout in LAYOUTS.items():
        if not (difference := getattr(agreement, name)) <= agreement.tolerance:
            raise DiffersFromStock(
                f"{_name(model)}: a log-probability of {layout} ({agreement.tokens} tokens, "
                f"{agreement.dtype}) differs from its stock forward by {difference:.3g} nats "
                f"(tolerance {agreement.tolerance:.2g}), so its scores here would be those of "
                "another model. Use a decoder that docs/models.md lists as agreeing."
            )


def _name(model: PreTrainedModel) -> str:
    return f"{model.config.get_text_config().model_type} ({type(model).__name__})"
