"""Promises of what interventions find in models of other families, and of what they refuse."""

import pytest
import torch

from ablation.config.interventions import read_settings
from ablation.interventions.anatomy import NoSuchPart, layers_of, matrices, norms
from ablation.interventions.loading import save_under
from ablation.interventions.registry import make
from ablation.model.checks.treated import MARK, NotInForce
from tests.support.families import tiny_family
from tests.support.small_training import HARDWARE
from tests.support.tiny import tiny_model, tiny_tokenizer

ROUND = {"kind": "round", "bits": 8, "group": 8}
THIN = {"kind": "drop_layers", "layers": [0]}


@pytest.mark.parametrize("family", ["gpt_oss", "ernie4_5_moe", "jetmoe", "cohere"])
def test_biases_and_norms_are_no_matrices(family):
    model = tiny_family(family, **({"use_qk_norm": True} if family == "cohere" else {}))
    names = [matrix.name for matrix in matrices(model)]
    assert names and not [name for name in names if "bias" in name or "norm" in name]


@pytest.mark.parametrize("family", ["gpt_oss", "aria_text", "mixtral"])
def test_experts_have_the_inputs_of_an_output_in_their_last_dimension(family):
    """down_proj of 48 inputs and 32 outputs, whichever of them its class stores first."""
    found = [m for m in matrices(tiny_family(family)) if m.name.endswith("experts.down_proj")]
    assert {tuple(matrix.values.shape) for matrix in found} == {(4, 32, 48)}


@pytest.mark.parametrize("family", ["olmo2", "olmo3", "olmoe", "minimax_m2"])
def test_norms_of_queries_and_keys_are_no_norms_of_the_residual_stream(family):
    model = tiny_family(family)
    names = {name for layer in layers_of(model) for _, name, _ in norms(layer, 32)}
    assert "post_attention_layernorm" in names and not names & {"q_norm", "k_norm"}


@pytest.mark.parametrize("family", ["git", "got_ocr2", "phi4_multimodal"])
def test_the_layers_of_a_model_that_also_sees_are_those_of_its_text(family):
    """The image encoder has as many layers, and no token of a text ever passes them."""
    model = tiny_family(family)
    taken = make("x", {"kind": "prune", "sparsity": 0.5, "structure": "weights"})
    ids = torch.arange(3, 20)[None]
    before = model(input_ids=ids).logits
    taken.apply(model)
    assert taken.audit(model) and not torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    "family", ["deepseek_v3", "diffllama", "minicpm3", "modernbert-decoder", "gemma4_text"]
)
def test_layers_that_a_saved_model_would_miss_are_refused_before_anything_is_trained(family):
    """The number of a layer, or how many there are, decides what the other layers compute."""
    with pytest.raises(NoSuchPart, match="without layers 0 it would be another model"):
        make("thin", THIN).apply(tiny_family(family))


@pytest.mark.parametrize("family", ["bitnet", "diffllama"])
def test_heads_that_a_norm_mixes_with_others_are_refused(family):
    """A head whose weights are 0 behind the norm still moves what the others hand over."""
    with pytest.raises(NoSuchPart, match="norm mixes its heads"):
        make("x", {"kind": "heads", "heads": [[0, 1]]}).apply(tiny_family(family))


def test_a_share_that_prunes_no_weight_at_all_is_not_in_force():
    model = tiny_model("llama")
    taken = make("x", {"kind": "prune", "sparsity": 1e-6, "structure": "weights"})
    taken.apply(model)
    with pytest.raises(NotInForce, match="no weight is 0"):
        taken.audit(model)


def test_a_folder_that_cannot_be_loaded_again_is_not_kept(tmp_path):
    model, taken = tiny_model("llama", vocabulary=320), make("x", ROUND)
    taken.apply(model)
    model.config.intermediate_size += 1  # so that the saved weights do not fit its configuration
    with pytest.raises(RuntimeError):
        save_under(HARDWARE, model, tiny_tokenizer(), tmp_path / "model", taken)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("kind", ["window", "norm"])
def test_layers_that_no_token_passes_are_refused_and_no_crash(kind, monkeypatch):
    settings = {
        "window": {"kind": "window", "tokens": 3, "when": "prefill"},
        "norm": {"kind": "norm", "layers": None},
    }
    model, other = tiny_model("llama"), tiny_model("llama")
    monkeypatch.setattr(f"ablation.interventions.{kind}.layers_of", lambda model: layers_of(other))
    taken = make("x", settings[kind])
    with pytest.raises((NotInForce, NoSuchPart)):
        taken.apply(model)
        taken.audit(model)
    assert kind == "window" or not hasattr(model.config, MARK)


@pytest.mark.parametrize(
    "own", [{"sliding_window": 0}, {"sliding_window": 4, "use_sliding_window": False}]
)
def test_a_window_that_a_base_has_and_does_not_use_limits_none(own):
    wanted = read_settings({"kind": "window", "tokens": 16, "when": "prefill"})
    assert wanted.problem({"max_position_embeddings": 64, **own}) is None
    assert wanted.problem({"max_position_embeddings": 64, "sliding_window": 4}) is not None
