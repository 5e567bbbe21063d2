"""Promises: a model that does not compute here what its stock forward computes is refused, by what
differed; one that does is not."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ablation.config.checkpoint_files import NotTheCheckpoint
from ablation.model.checkpoints import circumstances, load
from ablation.model.checks.agreement import DiffersFromStock, require_agreement
from ablation.model.checks.reduced import base_agreement
from ablation.model.checks.supported import UnsupportedArchitecture
from ablation.model.positions import widest_row
from tests.support.checkpoints import edit_config
from tests.support.families import tiny_family, write_family
from tests.support.tiny import ARCHITECTURES, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

DIFFERENT = {
    "a window that its code does not use": ("moshi", {}, "one sequence alone"),
    "attention that is not causal": ("bert", {"is_decoder": False}, "one sequence alone"),
    "positions that start later": ("xmod", {}, "one sequence alone"),
    "positions counted in columns": ("bigbird_pegasus", {}, "packed behind another document"),
    "a window hidden in a buffer": ("gpt_neo", {}, "the second choice of a shared prompt"),
}


@pytest.mark.parametrize("family, settings, layout", DIFFERENT.values(), ids=DIFFERENT)
def test_a_model_that_differs_from_its_stock_forward_is_refused(family, settings, layout):
    model = tiny_family(family, **settings)
    said = rf"{family} \({type(model).__name__}\).* {layout} \(\d+ tokens, float32\).* nats"
    with pytest.raises(DiffersFromStock, match=said):
        require_agreement(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_decoder_agrees_with_its_stock_forward(architecture, dtype):
    model = tiny_model(architecture, attention="eager").to(dtype)
    state = torch.get_rng_state()
    found = require_agreement(model.train())
    assert max(found.plain, found.packed, found.branch) < found.tolerance / 2
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert require_agreement(model) is found  # compared once


def test_a_model_that_takes_no_ready_mask_is_refused_by_name():
    with pytest.raises(UnsupportedArchitecture, match="openai-gpt .* fails with a ready attention"):
        require_agreement(tiny_family("openai-gpt"))


@pytest.mark.parametrize("family", ["roberta", "bart", "gpt_neo", "xlnet", "gemma3_text"])
def test_what_the_configuration_tells_is_refused_before_weights_are_read(tmp_path, family):
    bidirectional = {"use_bidirectional_attention": True} if family == "gemma3_text" else {}
    folder = write_family(tmp_path, family, **bidirectional)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UnsupportedArchitecture, match="positions|bidirectional|buffers|no ready attention"
    ):
        load(folder)


# ---- once a base, on a copy with short windows -----------------------------------------------


def test_a_difference_beyond_a_long_window_is_found_on_a_copy_with_a_short_one(tmp_path):
    folder = write_family(tmp_path, "moshi", sliding_window=3000)
    require_agreement(load(folder)[0])  # no text of a job exceeds the window
    with pytest.raises(DiffersFromStock, match="one sequence alone"):
        base_agreement(folder)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2", "qwen3_moe"])
def test_the_verdict_on_a_base_needs_no_weights_and_is_equal_everywhere(tmp_path, family):
    folder = write_family(tmp_path, family)
    (folder / "model.safetensors").unlink()
    state = torch.get_rng_state()
    verdict, found = base_agreement(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert verdict["compared"] and verdict["agrees"] == ["plain", "packed", "branch"]
    assert verdict["layers"] == 2 and verdict["dtype"] == found.dtype == "float32"
    assert not any(isinstance(value, float) for value in verdict.values())


def test_a_base_that_cannot_be_shortened_says_so(tmp_path):
    folder = write_family(tmp_path, "longcat_flash")
    verdict, found = base_agreement(folder)
    assert found is None and not verdict["compared"]
    assert "no copy of few layers" in verdict["reason"]


# ---- the checkpoint, all of it and nothing else ----------------------------------------------


def add_tensor(folder, name, like):
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = like(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


SURPLUS = {
    "a bias of the head": ("lm_head.bias", lambda t: torch.ones(320)),
    "a bias of attention": ("model.layers.0.self_attn.attn.bias", lambda t: torch.ones(32)),
    "a surplus layer": (
        "model.layers.2.mlp.up_proj.weight",
        lambda t: t["model.layers.0.mlp.up_proj.weight"].clone(),
    ),
}


@pytest.mark.parametrize("name, like", SURPLUS.values(), ids=SURPLUS)
def test_weights_without_a_place_in_the_model_are_refused_by_name(tmp_path, name, like):
    folder = write_family(tmp_path, "llama")
    add_tensor(folder, name, like)
    with pytest.raises(NotTheCheckpoint, match=f"LlamaForCausalLM has no place for 1 .*{name}"):
        load(folder)


@pytest.mark.parametrize("name", ["rotary_emb.inv_freq", "attn.bias", "attn.masked_bias"])
def test_buffers_of_older_versions_are_no_weights(tmp_path, name):
    folder = write_family(tmp_path, "llama")
    add_tensor(folder, f"model.layers.0.self_attn.{name}", lambda t: torch.ones(1, 1, 4, 4))
    load(folder)


def test_a_head_that_differs_from_the_embeddings_it_is_tied_to_is_refused(tmp_path):
    folder = write_family(tmp_path, "llama", tie_word_embeddings=False)
    edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(NotTheCheckpoint, match="ties .*two different ones"):
        load(folder)


def test_a_head_that_equals_the_embeddings_it_is_tied_to_is_loaded(tmp_path):
    folder = write_family(tmp_path, "llama", tie_word_embeddings=True)
    add_tensor(folder, "lm_head.weight", lambda t: t["model.embed_tokens.weight"].clone())
    model, _ = load(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_its_base_is_refused(tmp_path, name):
    folder = write_family(tmp_path, "llama")
    (folder / name).write_text("{}")
    for read in (load, base_agreement):
        with pytest.raises(NotTheCheckpoint, match=f"adapter \\({name}\\).*Merge it"):
            read(folder)


# ---- classes that compute otherwise ----------------------------------------------------------


def test_a_model_runs_on_as_many_tokens_as_it_has_positions():
    require_agreement(tiny_family("gpt2", n_positions=16))


@pytest.mark.parametrize("wanted", ["sdpa", "flex_attention"])
def test_a_class_without_sdpa_gets_eager_attention_and_says_so(tmp_path, wanted, capsys):
    model, _ = load(write_family(tmp_path, "gptj"), attention=wanted)
    said = capsys.readouterr().err
    assert circumstances(model)["attention"] == "eager"
    assert f"GPTJForCausalLM has no {wanted} attention, so it is loaded with eager" in said


def test_no_row_is_wider_than_a_buffer_or_the_budget_of_a_model():
    assert widest_row(tiny_family("big_bird")) == 256
    assert widest_row(tiny_family("gpt_neo")) == 256
    assert widest_row(tiny_family("doge", keep_window_size=48)) == 48
    assert widest_row(tiny_model("llama")) is None
