"""Promises of adapters: what is saved is what was trained, and no merge undoes an intervention."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ablation.config.recipes import Adapter
from ablation.interventions.adapters import add_adapter, merge, require_kept
from ablation.interventions.anatomy import NoSuchPart, matrices, probe
from ablation.interventions.loading import load_under, save_under
from ablation.interventions.registry import make
from ablation.model.checks.treated import NotInForce
from ablation.model.masks import forward_inputs
from ablation.model.ordered_sums import OrderedLinear, order_sums
from ablation.training import finetune as module
from tests.support.families import tiny_family
from tests.support.small_training import HARDWARE, recipe, stopped_after
from tests.support.tiny import tiny_model
from tests.unit.interventions.test_kinds import SETTINGS

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_thread")
LORA = Adapter(kind="lora", r=4, alpha=8, targets=["q_proj", "v_proj"])
EVERY = LORA.model_copy(update={"targets": "all-linear"})
STEPS = {"max_steps": 6, "save_steps": 3, "log_steps": 1}


def base(tokenizer):
    return tiny_model("ministral3", vocabulary=len(tokenizer))


def logits(model):
    with torch.no_grad():
        return model.eval()(**forward_inputs(model, "causal", probe(model, 12, 4))).logits


def filled(model, settings):
    """The model of peft around `model`, as after a training."""
    adapted = add_adapter(model, settings)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return adapted


def trained(tokenizer, data, home, adapter=LORA, under=None, **changes):
    def load():
        model = base(tokenizer)
        if under is not None:
            under.apply(model)
        return model, tokenizer

    settings = recipe(train_mask="causal", adapter=adapter, **STEPS | changes)
    return module.finetune(load, data, settings, 1, HARDWARE, "test", home, intervention=under)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], w) for k, w in other.items())


@pytest.mark.parametrize("name", ["ministral3", "llama", "gpt2"])
def test_an_adapter_that_was_not_trained_merges_into_the_same_bits(name):
    model = tiny_family(name) if name == "gpt2" else tiny_model(name, vocabulary=320)
    before, names = logits(model), list(model.state_dict())
    settings, modules = model.config.to_dict(), [type(m) for m in model.modules()]
    merge(add_adapter(model, EVERY), EVERY, None)
    assert torch.equal(logits(model), before) and list(model.state_dict()) == names
    assert model.config.to_dict() == settings and [type(m) for m in model.modules()] == modules


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", ["ministral3", "gpt2"])
def test_the_merged_model_computes_what_was_trained(name, ordered):
    model = tiny_family(name) if name == "gpt2" else tiny_model(name, vocabulary=320)
    if ordered:
        order_sums(model)
    classes = [type(m) for m in model.modules()]
    before = logits(model)
    adapted = filled(model, EVERY)
    own = {
        type(m) for n, m in model.named_modules() if n.endswith(("lora_A.default", "_B.default"))
    }
    assert own == {OrderedLinear if ordered else nn.Linear}
    beside = logits(model)
    merge(adapted, EVERY, None)
    assert (beside - before).abs().max() > 1e-2
    torch.testing.assert_close(logits(model), beside, rtol=1e-4, atol=1e-4)
    assert [type(m) for m in model.modules()] == classes
    assert (OrderedLinear in classes) == ordered


def test_a_training_with_an_adapter_changes_its_targets_alone(tokenizer, data, tmp_path):
    before = base(tokenizer).state_dict()
    tuned = trained(tokenizer, data, tmp_path / "state", weight_decay=0.1)
    changed = {k for k, w in tuned.model.state_dict().items() if not torch.equal(w, before[k])}
    assert changed and {name.split(".")[-2] for name in changed} == {"q_proj", "v_proj"}
    assert tuned.summary["recipe"]["adapter"] == LORA.model_dump()
    json.dumps(tuned.summary)


def test_the_saved_adapter_beside_its_base_is_the_merged_model(tokenizer, data, tmp_path):
    tuned = trained(tokenizer, data, tmp_path / "state")
    folder = tmp_path / "model"
    save_under(HARDWARE, tuned.model, tokenizer, folder, None)
    tuned.adapter.save(folder / "adapter")
    files = {"adapter_config.json", "adapter_model.safetensors"}
    assert {file.name for file in (folder / "adapter").iterdir()} == files
    merged, _ = load_under(HARDWARE, folder)  # an adapter in a folder of its own is not refused
    assert torch.equal(logits(merged), logits(tuned.model))
    beside = peft.PeftModel.from_pretrained(base(tokenizer), folder / "adapter").get_base_model()
    torch.testing.assert_close(logits(beside), logits(merged), rtol=1e-4, atol=1e-4)


def test_equal_trainings_save_adapters_of_equal_bytes_without_paths(tokenizer, data, tmp_path):
    for name in ("one", "two"):
        trained(tokenizer, data, tmp_path / f"state of {name}").adapter.save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        content = file.read_bytes()
        assert content == (tmp_path / "two" / file.name).read_bytes()
        assert str(tmp_path).encode() not in content
    settings = json.loads((tmp_path / "one/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    assert settings["target_modules"] == sorted(settings["target_modules"])


def test_a_killed_training_of_an_adapter_ends_with_the_same_bits(tokenizer, data, tmp_path):
    adapter = LORA.model_copy(update={"dropout": 0.2})
    whole = trained(tokenizer, data, tmp_path / "whole", adapter)
    with stopped_after(4):
        trained(tokenizer, data, tmp_path / "state", adapter)
    again = trained(tokenizer, data, tmp_path / "state", adapter)
    assert again.record["resumes"] == [3]
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert same(whole.adapter.weights, again.adapter.weights)


@pytest.mark.parametrize("kind", ["window", "drop_layers", "positions", "norm", "heads"])
def test_an_intervention_stays_in_force_beside_an_adapter(kind, tokenizer, data, tmp_path):
    under = make("x", SETTINGS[kind])
    tuned = trained(tokenizer, data, tmp_path / "state", LORA, under)
    audits = tuned.summary["intervention_audit"]
    assert audits["before"].keys() == audits["after"].keys() and audits["after"]
    save_under(HARDWARE, tuned.model, tokenizer, tmp_path / "model", under)


REFUSED = {"prune": LORA, "prune_2_4": LORA, "prune_outputs": LORA, "round": LORA, "heads": EVERY}


@pytest.mark.parametrize("kind, adapter", REFUSED.items())
def test_an_adapter_whose_merge_undoes_an_intervention_is_refused_before_the_training(
    kind, adapter, tokenizer, data, tmp_path
):
    under = make("thin", SETTINGS[kind])
    message = r"cannot be trained under 'thin' .*would undo it.*\(`adapter: null`\)"
    with pytest.raises(NotInForce, match=message):
        trained(tokenizer, data, tmp_path / "state", adapter, under)
    assert not list((tmp_path / "state").glob("checkpoint-*"))


def test_the_test_for_a_merge_leaves_the_weights_as_they_were(tokenizer):
    for kind, adapter in (("prune", LORA), ("window", EVERY)):
        model, under = base(tokenizer), make("x", SETTINGS[kind])
        under.apply(model)
        before = {k: w.clone() for k, w in model.state_dict().items()}
        try:
            require_kept(model, adapter, under)
        except NotInForce:
            assert kind == "prune"
        assert same(before, model.state_dict())
        assert under.audit(model)


@pytest.mark.parametrize("kind", ["prune", "round"])
def test_a_merge_that_undid_an_intervention_is_refused_at_the_end(
    kind, tokenizer, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "require_kept", lambda *_: None)
    with pytest.raises(NotInForce, match="intervention 'thin' is not in force"):
        trained(tokenizer, data, tmp_path / "state", EVERY, make("thin", SETTINGS[kind]))
    model, under = base(tokenizer), make("thin", SETTINGS[kind])
    under.apply(model)
    merge(filled(model, LORA), LORA, None)
    with pytest.raises(NotInForce):
        save_under(HARDWARE, model, tokenizer, tmp_path / "model", under)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens", "oj", "norm"])
def test_a_target_that_no_linear_layer_has_is_refused_by_name(target, tokenizer):
    model = base(tokenizer)
    message = re.escape(f"adapter.targets: {target!r} found") + ".*k_proj.*q_proj.*was expected"
    with pytest.raises(NoSuchPart, match=message):
        add_adapter(model, LORA.model_copy(update={"targets": ["q_proj", target]}))
    assert not [name for name in model.state_dict() if "lora" in name]


def test_all_linear_layers_are_those_of_the_layers(tokenizer):
    model = base(tokenizer)
    count = len(matrices(model))
    _, adapter = merge(add_adapter(model, EVERY), EVERY, None)
    assert len(adapter.settings["target_modules"]) == count


def test_weights_in_bfloat16_are_trained_and_merged_in_their_dtype(tokenizer, data, tmp_path):
    def load():
        return base(tokenizer).to(torch.bfloat16), tokenizer

    for optimizer in ("adamw_torch", "adafactor_bf16"):
        settings = recipe(train_mask="causal", adapter=LORA, optimizer=optimizer, **STEPS)
        home = tmp_path / optimizer
        tuned = module.finetune(load, data, settings, 1, HARDWARE, "test", home)
        dtypes = {w.dtype for w in (*tuned.model.parameters(), *tuned.adapter.weights.values())}
        assert dtypes == {torch.bfloat16}
        assert any(w.abs().max() > 0 for n, w in tuned.adapter.weights.items() if "lora_B" in n)


def test_a_killed_training_keeps_the_adapter_alone(tokenizer, data, tmp_path):
    tuned = trained(tokenizer, data, tmp_path / "state")
    (file,) = (tmp_path / "state").glob("checkpoint-6/model.safetensors")
    saved = load_file(file)
    assert all("lora_" in name for name in saved) and len(saved) == len(tuned.adapter.weights)
