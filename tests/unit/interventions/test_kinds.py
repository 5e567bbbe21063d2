"""Promises of every kind of intervention, on tiny random models of several architectures."""

import copy
import shutil

import pytest
import torch
from transformers import DynamicCache

from ablation.config.interventions import KINDS, read_settings
from ablation.interventions.anatomy import NoSuchPart, matrices, probe
from ablation.interventions.loading import load, load_under, require_saved
from ablation.interventions.protocol import Intervention
from ablation.interventions.registry import make
from ablation.model.checkpoints import compile_layers, save, stock_model
from ablation.model.checkpoints import load as plain_load
from ablation.model.checks.agreement import require_agreement
from ablation.model.checks.treated import MARK, NotInForce
from ablation.model.leak_audit import MaskNotObeyed, leak_audit
from ablation.model.masks import forward_inputs
from tests.support.families import tiny_family
from tests.support.small_training import HARDWARE
from tests.support.tiny import tiny_model, tiny_tokenizer

SETTINGS = {
    "window": {"kind": "window", "tokens": 3, "when": "prefill"},
    "window_everywhere": {"kind": "window", "tokens": 3, "when": "everywhere"},
    "drop_layers": {"kind": "drop_layers", "layers": [0]},
    "heads": {"kind": "heads", "heads": [[0, 1], [1, 3]]},
    "positions": {"kind": "positions"},
    "round": {"kind": "round", "bits": 3, "group": 8},
    "prune": {"kind": "prune", "sparsity": 0.4, "structure": "weights"},
    "prune_2_4": {"kind": "prune", "sparsity": 0.5, "structure": "2:4"},
    "prune_outputs": {"kind": "prune", "sparsity": 0.25, "structure": "outputs"},
    "norm": {"kind": "norm", "layers": None},
}
WHOLE = ("window", "window_everywhere", "positions")  # kinds whose weights stay as they were
FAMILIES = ("gpt_neox", "gpt2", "opt", "qwen3_moe", "phi3")
MODELS = (*("ministral3", "llama", "qwen3", "mistral", "qwen3_sliding", "gemma2"), *FAMILIES)


def model_of(name):
    if name in FAMILIES:
        return tiny_family(name)
    special = {"sliding_window": 9} if name in ("mistral", "qwen3_sliding", "gemma2") else {}
    attention = "eager" if name == "gemma2" else "sdpa"
    return tiny_model(name, vocabulary=320, attention=attention, **special)


def logits(model):
    with torch.no_grad():
        return model(**forward_inputs(model, "causal", probe(model, 12, 4))).logits


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_seen_in_force_changes_the_model_and_applied_again_changes_nothing(kind, name):
    model = model_of(name)
    before, taken = logits(model), make("x", SETTINGS[kind])
    with pytest.raises(NotInForce, match="'x'"):
        taken.audit(model)
    taken.apply(model)
    first = logits(model)
    assert taken.audit(model) and not torch.equal(first, before)
    taken.apply(model)
    taken.constrain(model)
    assert torch.equal(logits(model), first)
    require_agreement(model)
    leak_audit(model, "causal")


@pytest.mark.skipif(shutil.which("g++") is None, reason="layers are compiled with g++")
@pytest.mark.parametrize("kind", SETTINGS)
def test_it_is_seen_in_force_in_compiled_layers_as_well(kind):
    """These skip hooks that came later, and round otherwise than their own `forward`."""
    model, taken = tiny_model("llama", vocabulary=320).bfloat16(), make("x", SETTINGS[kind])
    compile_layers(model)
    logits(model)  # so that no later call of a layer is its first
    with pytest.raises(NotInForce, match="'x'"):
        taken.audit(model)
    taken.apply(model)
    assert taken.audit(model)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", ["ministral3", "gemma2", "gpt2"])
def test_saved_and_loaded_again_it_is_the_same_model_bit_for_bit(kind, name, tmp_path):
    model, taken = model_of(name), make("x", SETTINGS[kind])
    taken.apply(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    evidence = require_saved(HARDWARE, tmp_path / "model", model, taken)
    assert evidence["logits_differ_after_reload"] == 0
    again, _ = load(tmp_path / "model")  # any command of the project
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", SETTINGS)
def test_plain_transformers_computes_the_saved_model_where_its_settings_say_so(kind, tmp_path):
    model, taken = model_of("llama"), make("x", SETTINGS[kind])
    taken.apply(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    stock = stock_model(tmp_path / "model", "float32", "cpu")
    ids = probe(model, 12, 4).input_ids
    with torch.no_grad():
        off = float((stock(ids).logits - logits(load(tmp_path / "model")[0])).abs().max())
    assert (off < 1e-5) is read_settings(SETTINGS[kind]).in_weights


@pytest.mark.parametrize("kind", SETTINGS)
def test_without_its_application_after_a_load_it_is_refused(kind, tmp_path, monkeypatch):
    model, taken = model_of("llama"), make("x", SETTINGS[kind])
    whole = copy.deepcopy(model)
    taken.apply(model)
    save(whole, tiny_tokenizer(), tmp_path / "whole")
    save(model, tiny_tokenizer(), tmp_path / "treated")
    with pytest.raises(NotInForce, match="config.json names what was taken away"):
        plain_load(tmp_path / "treated")
    monkeypatch.setattr(Intervention, "apply", lambda self, model: None)
    again, _ = load_under(HARDWARE, tmp_path / "whole", taken)
    with pytest.raises(NotInForce):
        taken.audit(again)


@pytest.mark.parametrize("kind", ["window", "window_everywhere", "positions", "norm"])
def test_what_weights_cannot_hold_is_refused_if_it_does_not_come_back(kind, tmp_path, monkeypatch):
    model, taken = model_of("llama"), make("x", SETTINGS[kind])
    taken.apply(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    monkeypatch.setattr(type(taken), "restore", lambda self, model: None)
    with pytest.raises(NotInForce):
        require_saved(HARDWARE, tmp_path / "model", model, taken)


@pytest.mark.parametrize("kind", [k for k in SETTINGS if k not in WHOLE])
def test_what_is_gone_for_good_is_never_scored_as_if_it_were_there(kind, tmp_path):
    model, taken = model_of("llama"), make("x", SETTINGS[kind])
    taken.apply(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(NotInForce, match="cannot be scored without it"):
        load_under(HARDWARE, tmp_path / "model", None, taken.as_dict())


@pytest.mark.parametrize("kind", WHOLE)
def test_what_can_be_lifted_is_lifted(kind, tmp_path):
    model, taken = model_of("llama"), make("x", SETTINGS[kind])
    before = logits(model)
    taken.apply(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    lifted, _ = load_under(HARDWARE, tmp_path / "model", None, taken.as_dict())
    assert torch.equal(logits(lifted), before) and not hasattr(lifted.config, MARK)


def test_a_checkpoint_whose_mark_is_gone_is_refused_by_its_manifest(tmp_path):
    model, taken = model_of("llama"), make("x", SETTINGS["prune"])
    save(model, tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(NotInForce, match="other software"):
        load_under(HARDWARE, tmp_path / "model", taken, taken.as_dict())


def test_a_base_from_which_something_was_taken_away_is_no_whole_base(tmp_path):
    model, taken = model_of("llama"), make("x", SETTINGS["positions"])
    taken.apply(model)
    save(model, tiny_tokenizer(), tmp_path / "model")
    for under in (None, taken):
        with pytest.raises(NotInForce, match="a base must be whole"):
            load_under(HARDWARE, tmp_path / "model", under)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_bfloat16_weights_are_told_from_whole_ones(bits):
    model = model_of("llama").to(torch.bfloat16)
    taken = make("x", {"kind": "round", "bits": bits, "group": 8})
    with pytest.raises(NotInForce):
        taken.audit(model)
    taken.apply(model)
    taken.audit(model)


@pytest.mark.parametrize("kind", [k for k in SETTINGS if k.startswith(("prune", "round", "heads"))])
def test_an_optimizer_step_does_not_heal_it(kind):
    model, taken = model_of("llama"), make("x", SETTINGS[kind])
    taken.apply(model)
    with torch.no_grad():
        for matrix in matrices(model):
            matrix.weight.add_(torch.randn(matrix.weight.shape))
    with pytest.raises(NotInForce):
        taken.audit(model)
    taken.constrain(model)
    taken.audit(model)


def test_a_mask_that_is_not_used_is_not_in_force(monkeypatch):
    model = model_of("llama")
    assert leak_audit(model, "prefill_bidir").first_prompt > 0
    monkeypatch.setattr(
        "ablation.model.forward.forward_inputs",
        lambda model, mask, rows: forward_inputs(model, "causal", rows),
    )
    with pytest.raises(NotInForce) as caught:
        leak_audit(model, "prefill_bidir")
    assert caught.type is MaskNotObeyed


def test_a_dropped_layer_leaves_the_others_as_they_were():
    whole, model = model_of("llama"), model_of("llama")
    make("thin", {"kind": "drop_layers", "layers": [0]}).apply(model)
    kept = whole.model.layers[1].state_dict()
    assert all(torch.equal(kept[k], v) for k, v in model.model.layers[0].state_dict().items())
    assert model.config.num_hidden_layers == 1 and model.model.layers[0].self_attn.layer_idx == 0


def test_a_window_is_the_one_of_a_model_that_has_it_itself():
    """A model whose own window is 4 tokens computes as the whole model under a window of 4."""
    own, whole = tiny_model("mistral", sliding_window=4), tiny_model("mistral", sliding_window=None)
    whole.load_state_dict(own.state_dict())
    make("swa", {"kind": "window", "tokens": 4, "when": "everywhere"}).apply(whole)
    assert torch.equal(logits(own), logits(whole))


@pytest.mark.parametrize("when", ["prefill", "everywhere"])
def test_a_window_is_seen_in_layers_with_several_streams_of_hidden_states(when):
    model = tiny_family("gemma3n_text")
    taken = make("swa", {"kind": "window", "tokens": 3, "when": when})
    with pytest.raises(NotInForce, match="beyond the window of 3 tokens"):
        taken.audit(model)
    taken.apply(model)
    evidence = taken.audit(model)
    assert evidence["moved_within_window"] > 0 == evidence["moved_beyond_window"]
    assert (evidence["moved_in_continuation"] > 0) == (when == "prefill")


@pytest.mark.parametrize("name", ["gptj", "codegen"])
def test_positions_are_removed_from_attention_that_computes_them_itself(name):
    model, taken = tiny_family(name), make("x", {"kind": "positions"})
    with pytest.raises(NotInForce, match="other positions moved"):
        taken.audit(model)
    taken.apply(model)
    assert taken.audit(model) == {"moved_by_other_positions": 0}


@pytest.mark.parametrize("name", ["beam", "ctrl"])
def test_positions_that_the_model_itself_computes_with_cannot_be_removed(name):
    model = tiny_family(name)
    with pytest.raises(NoSuchPart, match="outside of its layers .*other positions moved.* by"):
        make("x", {"kind": "positions"}).apply(model)


def test_a_model_without_positions_has_none_that_could_be_removed():
    model = tiny_family("smollm3", no_rope_layers=[0, 0])
    with pytest.raises(NoSuchPart, match="does not depend on the positions"):
        make("x", {"kind": "positions"}).apply(model)


def test_a_window_in_prefill_equals_a_windowed_prefill_with_a_cache():
    """Decoded tokens see the whole cache, whose keys a windowed prefill has computed."""
    model = tiny_model("llama")
    taken = make("swa", {"kind": "window", "tokens": 3, "when": "prefill"})
    rows = probe(model, 8, 4)
    ids = rows.input_ids
    taken.apply(model)
    ours = logits_of(model, rows)
    narrow = tiny_model("mistral", sliding_window=3)
    narrow.load_state_dict(model.state_dict())
    cache = DynamicCache()
    with torch.no_grad():
        narrow(input_ids=ids[:, :8], past_key_values=cache, use_cache=True)
        narrow.config.sliding_window = None
        steps = [
            narrow(
                input_ids=ids[:, i : i + 1],
                past_key_values=cache,
                position_ids=torch.tensor([[i]]),
                use_cache=True,
            ).logits
            for i in range(8, 12)
        ]
    torch.testing.assert_close(torch.cat(steps, 1), ours[:, 8:], atol=1e-4, rtol=0)


def logits_of(model, rows):
    with torch.no_grad():
        return model(**forward_inputs(model, "causal", rows)).logits


def test_half_of_the_weights_are_gone_and_the_largest_are_left():
    model = model_of("llama")
    before = {m.name: m.values.clone() for m in matrices(model)}
    make("p", {"kind": "prune", "sparsity": 0.5, "structure": "weights"}).apply(model)
    for matrix in matrices(model):
        old, new = before[matrix.name].abs(), matrix.values
        assert (new == 0).sum() == new.numel() // 2
        assert old[new == 0].max() <= old[new != 0].min()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_weights_have_few_levels_and_are_near(bits):
    model = model_of("llama")
    before = {m.name: m.values.clone() for m in matrices(model)}
    make("r", {"kind": "round", "bits": bits, "group": 8}).apply(model)
    for matrix in matrices(model):
        groups = matrix.values.unflatten(-1, (-1, 8))
        assert all(len(g.unique()) <= 2**bits - 1 for g in groups.reshape(-1, 8)[:50])
        step = before[matrix.name].abs().max() / (2 ** (bits - 1) - 1)
        assert (matrix.values - before[matrix.name]).abs().max() <= step * 1.01


def test_every_kind_has_settings_and_a_file():
    assert {s["kind"] for s in SETTINGS.values()} == set(KINDS)
    for values in SETTINGS.values():
        assert read_settings(values).model_dump() == values
