"""Promises of adapters beside frozen weights of 4 bits, which bitsandbytes trains on a GPU."""

import pytest
import torch

from ablation.config.recipes import Adapter
from ablation.training.finetune import finetune
from tests.support.small_training import HARDWARE, recipe
from tests.support.tiny import tiny_model

pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROUNDED = Adapter(kind="lora", r=4, alpha=8, targets=["q_proj", "v_proj"], dropout=0.2, base_bits=4)
WIDE = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 32}  # they round 64 weights at once


def trained(tokenizer, data, home, adapter):
    def load():
        return tiny_model("ministral3", len(tokenizer), **WIDE).cuda(), tokenizer

    keys = {"max_steps": 6, "save_steps": 3, "log_steps": 1, "learning_rate": 0.01}
    settings = recipe(train_mask="causal", adapter=adapter, **keys)
    hardware = HARDWARE.model_copy(update={"gpu": 1})
    return load()[0], finetune(load, data, settings, 1, hardware, "test", home)


def test_the_adapter_of_a_rounded_base_is_given_to_whole_weights(tokenizer, data, tmp_path):
    before, tuned = trained(tokenizer, data, tmp_path / "state", ROUNDED)
    after, weights = tuned.model.state_dict(), tuned.adapter.weights
    assert before.state_dict().keys() == after.keys()
    for name, weight in before.state_dict().items():
        stem = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        first, second = (weights.get(f"{stem}{x}.weight") for x in "AB")
        added = 0 if first is None else (second @ first * 2).cuda()  # alpha / r
        torch.testing.assert_close(after[name], weight + added)
    assert all(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    whole = ROUNDED.model_copy(update={"base_bits": None})
    assert tuned.curve != trained(tokenizer, data, tmp_path / "whole", whole)[1].curve


def test_a_training_on_a_rounded_base_goes_on_from_its_checkpoint(tokenizer, data, tmp_path):
    _, whole = trained(tokenizer, data, tmp_path / "state", ROUNDED)
    (tmp_path / "state/checkpoint-6").rename(tmp_path / "later")
    _, again = trained(tokenizer, data, tmp_path / "state", ROUNDED)
    assert again.record["resumes"] == [3]
    for name, weight in whole.adapter.weights.items():
        torch.testing.assert_close(again.adapter.weights[name], weight)
