"""Promises of checkpoints as they stand on the hub: FP8 is unpacked to the very numbers it stands
for, of a multimodal model the text part is used, and what cannot be read is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from ablation.model.checkpoints import UnsupportedQuantization, load, save
from ablation.model.forward import target_logits
from ablation.model.leak_audit import leak_audit
from ablation.model.packing import Example, pack
from ablation.vocabulary.masks import MASKS
from tests.support.checkpoints import (
    drop_tensors,
    edit_config,
    quantize,
    write_multimodal,
    write_text_only,
)

ROWS = pack([Example([3, 4, 5, 6], [[7, 8, 9]]), Example([11, 12], [[13]])], capacity=20)
WRITERS = {"multimodal": write_multimodal, "text": write_text_only}


@pytest.fixture(params=[(kind, tie) for kind in WRITERS for tie in (True, False)], ids=str)
def checkpoint(request, tmp_path):
    """A checkpoint in bfloat16."""
    kind, tie = request.param
    return WRITERS[kind](tmp_path / "checkpoint", tie)


def text_names(tensors):
    """Tensors of the decoder and its head, by the names of the text-only class."""
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith(("vision_tower", "multi_modal_projector")):
            found[name.removeprefix("language_model.")] = tensor
    return found


def assert_weights(model, expected):
    state = model.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor.to(model.dtype)), name
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = "lm_head.weight" not in expected
    assert (head.weight is embeddings.weight) == tied == model.config.tie_word_embeddings
    assert set(state) - set(expected) == ({"lm_head.weight"} if tied else set())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("blocks", [None, 2], ids=["one scale", "blocks"])
def test_fp8_is_unpacked_to_the_bfloat16_that_it_stands_for(checkpoint, blocks, dtype):
    meant = quantize(checkpoint, blocks)
    stored = load_file(checkpoint / "model.safetensors")
    assert torch.float8_e4m3fn in {t.dtype for t in stored.values()}
    model, _ = load(checkpoint, dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert_weights(model, text_names(meant))


def test_of_a_multimodal_checkpoint_the_text_part_is_used(tmp_path):
    folder = write_multimodal(tmp_path)
    whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    text, _ = load(folder)
    assert type(text).__name__ == "Ministral3ForCausalLM"
    assert not any("vision" in name or "projector" in name for name in text.state_dict())
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(text(ids).logits, whole(ids).logits)
    for mask in MASKS:
        assert leak_audit(text, mask).leaks == (mask == "full_bidir")


@pytest.mark.parametrize("packed", [False, True], ids=["bfloat16", "fp8"])
def test_what_was_loaded_is_saved_as_a_plain_text_model_and_loads_back(
    checkpoint, tmp_path, packed
):
    meant = quantize(checkpoint) if packed else load_file(checkpoint / "model.safetensors")
    first, tokenizer = load(checkpoint, "bfloat16")
    assert save(first, tokenizer, tmp_path / "saved") == "hf_pretrained"
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["architectures"] == ["Ministral3ForCausalLM"]
    assert "quantization_config" not in config
    stored = load_file(tmp_path / "saved/model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    again, again_tokenizer = load(tmp_path / "saved", "bfloat16")
    assert_weights(again, text_names(meant))
    for mask in MASKS:
        logits = [target_logits(model, ROWS, mask) for model in (first, again)]
        assert torch.equal(*logits)
    save(again, again_tokenizer, tmp_path / "twice")
    for file in (tmp_path / "saved").iterdir():
        assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes(), file.name


def test_training_an_unpacked_model_reaches_every_weight(tmp_path):
    quantize(write_multimodal(tmp_path))
    model, _ = load(tmp_path)
    target_logits(model, ROWS, "prefill_bidir").sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("method", ["compressed-tensors", "gptq", "bitsandbytes", "fbgemm_fp8"])
def test_other_quantizations_are_refused_by_name(tmp_path, method):
    edit_config(write_text_only(tmp_path), quantization_config={"quant_method": method})
    with pytest.raises(UnsupportedQuantization, match=f"quantized by {method}"):
        load(tmp_path)


def test_an_fp8_weight_without_its_scale_is_no_weight(tmp_path):
    quantize(write_multimodal(tmp_path))
    drop_tensors(tmp_path, "layers.1.mlp.up_proj.weight_scale_inv")
    with pytest.raises(UnsupportedQuantization, match="layers.1.mlp.up_proj.weight is FP8, but"):
        load(tmp_path)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_weights_that_are_missing_are_not_made_up(tmp_path, write):
    drop_tensors(write(tmp_path), "layers.1.mlp.up_proj.weight")
    with pytest.raises(ValueError, match=r"1 weights .*layers\.1\.mlp\.up_proj\.weight"):
        load(tmp_path)
