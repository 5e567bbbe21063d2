"""Promises of loading on a CUDA device: the weights there are those of the files."""

import pytest
import torch

from ablation.model import checkpoints
from tests.support.tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_loaded_on_a_gpu_has_the_bits_of_one_moved_there(architecture, dtype, tmp_path):
    tiny = tiny_model(architecture, attention="eager")  # Gemma2 has no sdpa
    checkpoints.save(tiny, tiny_tokenizer(), tmp_path / "model")
    loaded, _ = checkpoints.load(tmp_path / "model", dtype, device="cuda")
    moved = checkpoints.load(tmp_path / "model", dtype)[0].to("cuda")
    for kind in ("named_parameters", "named_buffers"):
        found, expected = (dict(getattr(model, kind)()) for model in (loaded, moved))
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            assert weight.device == torch.device("cuda", torch.cuda.current_device())
            assert weight.dtype == expected[name].dtype and weight.equal(expected[name]), name
    ids = torch.arange(3, 40, device="cuda")[None]
    assert loaded(ids).logits.equal(moved(ids).logits)
