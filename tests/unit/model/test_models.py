"""Promises of models: what is saved is loaded, and logits at targets are the model's own."""

import resource
import shutil

import pytest
import torch
import transformers
from safetensors import SafetensorError

from ablation.model.checkpoints import circumstances, load, save
from ablation.model.checks.supported import UnsupportedArchitecture
from ablation.model.forward import target_logits
from ablation.model.masks import attention_mask
from ablation.model.packing import Example, pack
from ablation.provenance.run_records import processor_name
from tests.support.tiny import tiny_model, tiny_tokenizer

ROWS = pack([Example([3, 4, 5, 6], [[7, 8, 9], [10]]), Example([11, 12], [[13]])], capacity=20)


@pytest.mark.parametrize("tie", [True, False])
def test_a_saved_model_loads_and_saves_again_to_the_same_bytes(tmp_path, tie):
    tokenizer = tiny_tokenizer()
    model = tiny_model("ministral3", vocabulary=len(tokenizer), tie=tie)
    save(model, tokenizer, tmp_path / "first")
    loaded, loaded_tokenizer = load(tmp_path / "first")
    save(loaded, loaded_tokenizer, tmp_path / "second")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    assert "model.safetensors" in files
    for name in files:
        first, second = (tmp_path / folder / name for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name
    assert not loaded.training
    assert loaded_tokenizer("Eve has it.")["input_ids"] == tokenizer("Eve has it.")["input_ids"]
    for mask in ("causal", "prefill_bidir"):
        assert torch.equal(target_logits(loaded, ROWS, mask), target_logits(model, ROWS, mask))


def unable(*args, **kwargs):
    raise NotImplementedError("weights of this class cannot be converted back")


def raw(tmp_path, dtype="float32", **config):
    """A trained model whose class cannot save itself, and the folder that it was saved in."""
    tokenizer, base = tiny_tokenizer(), tmp_path / "base"
    assert save(tiny_model("llama", **config), tokenizer, base) == "hf_pretrained"
    model, _ = load(base, dtype=dtype)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.mul_(1 + number / 7)
    model.generation_config.eos_token_id = [2, 5]
    model.save_pretrained = unable
    assert save(model, tokenizer, tmp_path / "moved/model") == "raw_state_dict"
    return model, tmp_path / "moved/model"


def same_weights(loaded, model):
    weights = model.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == weights[name].dtype and torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tie", [True, False])
def test_a_class_that_cannot_save_itself_comes_back_bit_equal(tmp_path, tie, dtype):
    model, folder = raw(tmp_path, dtype, tie=tie)
    loaded, tokenizer = load(folder, dtype=dtype)
    assert type(loaded) is type(model) and not loaded.training
    same_weights(loaded, model)
    head, embeddings = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert (head.weight is embeddings.weight) == tie
    assert loaded.generation_config.eos_token_id == [2, 5]
    assert torch.equal(target_logits(loaded, ROWS, "causal"), target_logits(model, ROWS, "causal"))
    assert tokenizer("Eve has it.")["input_ids"] == tiny_tokenizer()("Eve has it.")["input_ids"]


def test_a_raw_checkpoint_stands_alone_whatever_becomes_of_its_base(tmp_path):
    model, folder = raw(tmp_path, rms_norm_eps=1e-3)
    config = tmp_path / "base/config.json"
    config.write_text(config.read_text().replace("0.001", "0.1"))
    edited, _ = load(tmp_path / "base")
    assert edited.config.rms_norm_eps == 0.1
    expected = target_logits(model, ROWS, "causal")
    assert torch.equal(target_logits(load(folder)[0], ROWS, "causal"), expected)
    shutil.rmtree(tmp_path / "base")
    assert torch.equal(target_logits(load(folder)[0], ROWS, "causal"), expected)


def test_weights_that_a_class_keeps_in_float32_come_back_so(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["norm"])
    model, folder = raw(tmp_path, "bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32, torch.bfloat16}
    same_weights(load(folder, dtype="bfloat16")[0], model)


def test_a_full_disk_is_no_reason_for_another_format(tmp_path):
    def full(folder, **kwargs):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = tiny_model("llama")
    model.save_pretrained = full
    with pytest.raises(OSError, match="No space left"):
        save(model, tiny_tokenizer(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(capsys):
    """Lets no file grow beyond 8 kB, as on a disk that is almost full; output is kept in memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_safetensors_that_do_not_fit_on_the_disk_are_no_reason_for_another_format(
    tmp_path, small_disk, capsys
):
    with pytest.raises((SafetensorError, OSError), match="os error|Errno"):
        save(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    assert "cannot save itself" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("able", [True, False], ids=["hf_pretrained", "raw_state_dict"])
def test_all_files_of_a_saved_model_have_the_mode_of_a_new_file(tmp_path, able):
    model = tiny_model("llama")
    if not able:
        model.save_pretrained = unable
    save(model, tiny_tokenizer(), tmp_path / "model")
    (tmp_path / "new").touch()
    expected = (tmp_path / "new").stat().st_mode
    assert {p.name: p.stat().st_mode for p in (tmp_path / "model").iterdir()} == {
        p.name: expected for p in (tmp_path / "model").iterdir()
    }


def test_a_save_that_fails_or_was_killed_leaves_the_model_that_was_there(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    save(model, tokenizer, tmp_path / "model")
    before = (tmp_path / "model/model.safetensors").read_bytes()
    tokenizer.save_pretrained = unable
    with pytest.raises(NotImplementedError):
        save(tiny_model("qwen3"), tokenizer, tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
    (tmp_path / ".model.1.part").mkdir()  # a killed save's
    save(model, tiny_tokenizer(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_dtype_and_attention_are_those_asked_for_and_are_on_record(tmp_path, monkeypatch):
    monkeypatch.delenv("MKL_CBWR", raising=False)  # a held processor has no name
    save(tiny_model("llama"), tiny_tokenizer(), tmp_path)
    model, _ = load(tmp_path, dtype="bfloat16", attention="eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    known = circumstances(model)
    found = (known["dtype"], known["attention"], known["device"])
    assert found == ("bfloat16", "eager", processor_name())


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        load(tmp_path / "nowhere")


def test_an_unsupported_architecture_is_refused_before_its_weights_are_read(tmp_path):
    transformers.MambaConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match="mamba"):
        load(tmp_path)


def full_forward(model, mask):
    logits = model(
        input_ids=ROWS.input_ids,
        attention_mask=attention_mask(model, mask, ROWS),
        position_ids=ROWS.position_ids,
        use_cache=False,
    ).logits
    return logits[ROWS.target_row, ROWS.target_position]


def head_sizes(model):
    """How many positions each call of the output head was given, from now on."""
    sizes = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[:-1].numel())
    )
    return sizes


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", ["ministral3", "llama", "qwen3", "qwen3_sliding"])
def test_target_logits_are_those_of_the_whole_forward(architecture, tie):
    model = tiny_model(architecture, tie=tie)
    for mask in ("causal", "prefill_bidir"):
        expected = full_forward(model, mask)
        torch.testing.assert_close(target_logits(model, ROWS, mask), expected)
    sizes = head_sizes(model)
    target_logits(model, ROWS, "causal")
    assert sizes == [len(ROWS.target_id)], "the head must run at the targets only"


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_model("gemma2", attention="eager"),  # soft-capped logits
        lambda: scaled("Granite", logits_scaling=8.0),
        lambda: scaled("Cohere", logit_scale=0.1),
    ],
    ids=["gemma2", "granite", "cohere"],
)
def test_a_model_that_does_more_than_its_head_gets_the_whole_forward(make):
    model = make()
    torch.testing.assert_close(target_logits(model, ROWS, "causal"), full_forward(model, "causal"))
    sizes = head_sizes(model)
    target_logits(model, ROWS, "causal")
    assert sizes == [ROWS.input_ids.numel()]


def scaled(name, **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="sdpa",
        **settings,
    )
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()
