"""Measures on the model itself whether it uses a mask, and whether the mask leaks.

A mask leaks if a token can attend to the token that it has to predict. The audit changes one token
of a small row and measures which logits move.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablation.model.checks.treated import NotInForce
from ablation.model.forward import last_states
from ablation.model.masks import uses_fixed_rows
from ablation.model.packing import NARROWEST, Example, pack
from ablation.vocabulary.masks import MASK


class MaskNotObeyed(NotInForce):
    """The model's logits show that it did not use the mask that was passed to it."""


@dataclass(frozen=True)
class LeakAudit:
    """The largest absolute differences of logits after one token was changed.

    leaks: `earlier` is above `tolerance`, so the mask shows tokens their own targets.
    earlier: of logits that predict the changed continuation token or a token before it.
    elsewhere: of logits in other branches and docs, which must not move.
    first_prompt: of the first prompt token after a change of the last one. It moves if and only if
        the mask has a bidirectional prompt.
    tolerance: smaller differences are rounding errors.
    tokens: how many tokens the audited row holds.
    """

    mask: str
    leaks: bool
    earlier: float
    elsewhere: float
    first_prompt: float
    tolerance: float
    tokens: int

    def as_dict(self) -> dict[str, str | bool | float | int]:
        return asdict(self)


@torch.no_grad()
def leak_audit(model: PreTrainedModel, mask: str, width: int | None = None) -> LeakAudit:
    """Audit `mask` on `model`: does the mask leak, and does the model use it?

    Runs three forwards over one row of some 25 random tokens. Under flex attention the row is
    padded to `width`; give the width of the rows that follow, for which a kernel is compiled
    anyway. Raises MaskNotObeyed if the prompt is causal under a mask with a bidirectional prompt,
    or the reverse, or if a change moves a logit of another doc or branch of the row.
    """
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)

    def random_ids(count: int) -> list[int]:
        return torch.randint(3, config.vocab_size, (count,), generator=generator).tolist()

    prompt, first, second = (random_ids(count) for count in (5, 4, 4))
    alone = MASK[mask].prompt_sees_response  # then two continuations cannot share a prompt
    examples = [Example(prompt, [first] if alone else [first, second])]
    examples += [Example(random_ids(5), [random_ids(4)])]
    width = max(width or 0, NARROWEST) if uses_fixed_rows(model) else None
    rows = pack(examples, capacity=64, width=width).to(model.device)
    real = rows.doc[0] >= 0
    changed_continuation = len(prompt) + len(first) // 2
    changed_prompt = len(prompt) - 1

    was_training = model.training
    model.eval()
    try:

        def logits(ids: Tensor) -> Tensor:
            states, head = last_states(model, replace(rows, input_ids=ids), mask)
            return head(states[0, real]).float()

        def movement(position: int) -> Tensor:
            """[tokens]: the largest change of a logit after the token at `position` is changed."""
            ids = rows.input_ids.clone()
            ids[0, position] = 3 + (ids[0, position] - 2) % (config.vocab_size - 3)
            return (logits(ids) - base).abs().amax(-1)

        base = logits(rows.input_ids)
        by_continuation, by_prompt = movement(changed_continuation), movement(changed_prompt)
    finally:
        model.train(was_training)

    doc = rows.doc[0, real]
    own_path = (doc == 0) & (rows.branch[0, real] <= 1)
    position = torch.arange(len(own_path), device=own_path.device)
    tolerance = max(torch.finfo(model.dtype).eps, 1e-5) * float(base.abs().max())
    earlier = float(by_continuation[own_path & (position < changed_continuation)].max())
    elsewhere = float(torch.cat([by_continuation[~own_path], by_prompt[doc == 1]]).max())
    first_prompt = float(by_prompt[0])
    audit = LeakAudit(
        mask=mask,
        leaks=earlier > tolerance,
        earlier=earlier,
        elsewhere=elsewhere,
        first_prompt=first_prompt,
        tolerance=tolerance,
        tokens=len(doc),
    )
    if elsewhere > tolerance:
        raise MaskNotObeyed(
            f"{config.model_type}: under mask {mask!r} a changed token moved a logit of another "
            f"document or branch of its row by {elsewhere:.3g} (tolerance {tolerance:.3g}). "
            "The model mixes tokens outside masked attention: it cannot be scored or trained here."
        )
    if (first_prompt > tolerance) != MASK[mask].bidirectional_prompt:
        moved = "moved" if first_prompt > tolerance else "did not move"
        raise MaskNotObeyed(
            f"{config.model_type} ({config._attn_implementation} attention): under mask {mask!r} "
            f"a change of the last prompt token {moved} the logits of the first "
            f"(|difference| {first_prompt:.3g}, tolerance {tolerance:.3g}), so the model does not "
            "use the mask it is given. Try another attention implementation."
        )
    return audit
