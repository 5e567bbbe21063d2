"""Promises of rounded weights: they are seen on their levels in every dtype, and off them too."""

import pytest
import torch

from ablation.interventions.anatomy import matrices
from ablation.interventions.loading import load
from ablation.interventions.registry import make
from ablation.model.checkpoints import save
from ablation.model.checks.treated import NotInForce
from tests.support.tiny import tiny_model, tiny_tokenizer

ROUND = {"kind": "round", "bits": 8, "group": 8}


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("group", [2, 8, None])
def test_rounded_bfloat16_weights_are_in_force_in_either_dtype(bits, group, tmp_path):
    model = tiny_model("llama", vocabulary=320).bfloat16()
    taken = make("x", {"kind": "round", "bits": bits, "group": group})
    taken.apply(model)
    taken.audit(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    for dtype in ("bfloat16", "float32"):
        load(tmp_path / "model", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_weights_that_moved_from_zero_by_a_tenth_of_a_step_are_seen(bits, dtype):
    model = tiny_model("llama").to(dtype)
    taken = make("x", ROUND | {"bits": bits})
    taken.apply(model)
    for matrix in matrices(model):
        step = matrix.values.abs().amax() / (2 ** (bits - 1) - 1)
        matrix.values.masked_fill_(matrix.values == 0, 0.1 * float(step))
    with pytest.raises(NotInForce, match="levels"):
        taken.audit(model)


@pytest.mark.parametrize("group", [8, None])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_weight_takes_the_nearest_of_equally_spaced_levels_up_to_the_largest_of_its_group(
    bits, group
):
    model = tiny_model("llama")
    before = [matrix.values.clone() for matrix in matrices(model)]
    make("x", ROUND | {"bits": bits, "group": group}).apply(model)
    for old, matrix in zip(before, matrices(model), strict=True):
        width = group or old.shape[-1]
        old, new = (w.unflatten(-1, (-1, width)) for w in (old, matrix.values))
        largest, most = old.abs().amax(-1, keepdim=True), 2 ** (bits - 1) - 1
        scale = new.abs().amax(-1, keepdim=True) / most
        torch.testing.assert_close(scale, largest / most, rtol=2**-7, atol=0)
        levels = new / scale
        assert torch.equal(levels, levels.round())
        assert ((old - new).abs() <= (largest - most * scale).clamp_min(scale / 2) * 1.001).all()
