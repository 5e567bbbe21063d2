"""Loads a model and takes away what it was trained without, or what a condition takes away."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablation.config.interventions import read_settings
from ablation.config.study import ComputeSettings
from ablation.interventions.anatomy import probe
from ablation.interventions.protocol import Intervention
from ablation.interventions.registry import make
from ablation.model import checkpoints
from ablation.model.checks.treated import NotInForce, marks, unmark
from ablation.model.masks import forward_inputs

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load(
    folder: str | Path, dtype: str = "float32", attention: str = "sdpa", device: str = "cpu"
) -> Loaded:
    """`checkpoints.load` of any folder; what its config.json names is taken away again.

    Raises NotInForce, and the errors of `checkpoints.load`.
    """
    model, tokenizer = checkpoints.load(folder, dtype, attention, device, treated=True)
    for entry in marks(model.config):
        own = make(f"{entry['settings'].get('kind')} of {folder}", entry["settings"])
        own.apply(model)
        own.audit(model)
    return model, tokenizer


def load_under(
    hardware: ComputeSettings,
    folder: str | Path,
    intervention: Intervention | None = None,
    trained_under: Mapping[str, Any] | None = None,
) -> Loaded:
    """`checkpoints.load_on`, with `intervention` in force, and whole without one.

    trained_under: the settings of the intervention that the checkpoint's manifest names, None for
        a checkpoint from which nothing was taken away.

    Raises NotInForce if the folder does not hold what the manifest says, or if it was trained under
    another intervention that cannot be lifted.
    """
    model, tokenizer = checkpoints.load_on(hardware, folder, treated=True)
    held = [entry["settings"] for entry in marks(model.config)]
    expected = [] if trained_under is None else [dict(trained_under)]
    if held != expected:
        raise NotInForce(
            f"{folder}: its manifest says that {expected or 'nothing'} was taken away from it, its "
            f"config.json says {held or 'nothing'}. If other software has saved it, train it "
            "again; a base must be whole"
        )
    for settings in held:
        if intervention is not None and settings == intervention.as_dict():
            continue
        if not read_settings(settings).liftable:
            raise NotInForce(
                f"{folder}: {settings} was taken away for good while it was trained, so it cannot "
                f"be scored {'under ' + intervention.name if intervention else 'without it'}"
            )
        unmark(model.config, settings)
    if intervention is not None:
        intervention.apply(model)
    return model, tokenizer


def save_under(
    hardware: ComputeSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    under: Intervention | None,
) -> str:
    """`checkpoints.save`, if what was saved is seen to be the same model, see `require_saved`.

    A folder that does not pass is deleted.
    """
    form = checkpoints.save(model, tokenizer, folder)
    if under is not None:
        try:
            require_saved(hardware, folder, model, under)
        except Exception:
            shutil.rmtree(folder)
            raise
    return form


@torch.no_grad()
def require_saved(
    hardware: ComputeSettings, folder: str | Path, model: PreTrainedModel, under: Intervention
) -> dict[str, Any]:
    """Load what was saved in `folder` again: it must be `model`, with `under` in force.

    Returns the evidence of the audit. Raises NotInForce if the audit fails, or if a logit of the
    two models differs by a bit.
    """
    again, _ = load_under(hardware, folder, under, under.as_dict())
    evidence = under.audit(again)
    again.to(model.device)  # type: ignore[arg-type]  # transformers wraps it without its signature
    differ = float((_logits(again, under.mask) - _logits(model, under.mask)).abs().max())
    if differ != 0:
        raise NotInForce(
            f"{folder}: loaded again, its logits differ by {differ:.3g} from those of the model "
            f"that was saved under {under.name!r}, so the intervention did not survive"
        )
    return evidence | {"logits_differ_after_reload": differ}


def _logits(model: PreTrainedModel, mask: str) -> Tensor:
    was_training = model.training
    model.eval()
    try:
        return model(**forward_inputs(model, mask, probe(model, prompt=16, continuation=8))).logits
    finally:
        model.train(was_training)
