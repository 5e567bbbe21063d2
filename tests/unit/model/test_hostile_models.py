"""Promises about model folders of strangers: their code never runs, and only files that provenance
lists are read."""

import io
import json
import shutil

import pytest
from safetensors.torch import load_file

from ablation.config.checkpoint_files import checkpoint_problem
from ablation.model.checkpoints import NeedsOwnCode, load, read_config, read_tokenizer
from ablation.provenance.files import file_table
from tests.support.checkpoints import edit_config, edit_json, write_text_only


@pytest.fixture
def folder(tmp_path):
    return write_text_only(tmp_path / "model")


def shard(folder, name):
    """Move the weights to `name`, which an index names."""
    file = folder / "model.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(file), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    file.rename(folder / name)


def outside(folder, file, name):
    """Copy a file of the model to `name`."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / file, folder / name)


@pytest.mark.parametrize("name", ["../outside.safetensors", ".a.safetensors", ".b/a.safetensors"])
def test_weights_outside_of_the_file_table_are_not_loaded(folder, name):
    shard(folder, name)
    assert not any(file.endswith(".safetensors") for file in file_table([folder]))
    with pytest.raises(ValueError, match="which is no visible file of this folder"):
        load(folder)


def test_an_absolute_path_is_no_shard(folder):
    shard(folder, str(folder.parent / "outside.safetensors"))
    with pytest.raises(ValueError, match="which is no visible file of this folder"):
        load(folder)


def test_visible_shards_are_loaded(folder):
    shard(folder, "model-00001-of-00001.safetensors")
    load(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"transformers_weights": ".hidden.safetensors"},
        {"attribute_map": {"transformers_weights": "x"}, "x": ".hidden.safetensors"},
    ],
    ids=["by name", "by another name"],
)
def test_a_configuration_does_not_choose_hidden_weights(folder, values):
    outside(folder, "model.safetensors", ".hidden.safetensors")
    edit_config(folder, **values)
    with pytest.raises(ValueError, match="transformers_weights"):
        load(folder)


def test_a_configuration_does_not_refer_to_one_outside(folder):
    outside(folder, "config.json", "../config.1.0.json")
    edit_config(folder, configuration_files=["../config.1.0.json"])
    with pytest.raises(ValueError, match="configuration_files"):
        load(folder)


def test_a_tokenizer_does_not_refer_to_one_outside(folder):
    outside(folder, "tokenizer.json", "../tokenizer.1.json")
    edit_json(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.1.json"])
    with pytest.raises(ValueError, match="fast_tokenizer_files"):
        load(folder)


def test_a_map_of_special_tokens_does_not_refer_to_a_tokenizer_outside(folder):
    outside(folder, "tokenizer.json", "../tokenizer.1.json")
    path = str(folder.parent / "tokenizer.1.json")
    (folder / "special_tokens_map.json").write_text(json.dumps({"tokenizer_file": path}))
    with pytest.raises(ValueError, match="special_tokens_map.json chooses .* `tokenizer_file`"):
        read_tokenizer(folder)
    assert "tokenizer_file" in checkpoint_problem(folder)


@pytest.mark.parametrize("how", ["by name", "by place"])
def test_a_tokenizer_does_not_take_its_vocabulary_from_outside(folder, how):
    vocabulary, merges = folder.parent / "vocab.json", folder.parent / "merges.txt"
    vocabulary.write_text('{"o": 0, "f": 1, "of": 2}')
    merges.write_text("#version: 0.2\no f\n")
    (folder / "tokenizer.json").unlink()
    edit_config(folder, model_type="gpt2")
    paths = [str(vocabulary), str(merges)]
    named = {"vocab": paths[0], "merges": paths[1]} if how == "by name" else {"init_inputs": paths}
    edit_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", **named)
    with pytest.raises(ValueError, match="vocab|init_inputs"):
        read_tokenizer(folder)


def test_special_tokens_and_empty_references_are_read(folder):
    """Checkpoints of older versions of transformers have these."""
    edit_json(folder / "tokenizer_config.json", init_inputs=[], tokenizer_file="/root/gone.json")
    tokens = {"bos_token": "<s>", "additional_special_tokens": ["</s>"], "image_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    assert read_tokenizer(folder).bos_token == "<s>"


# ---- code in a model folder ----------------------------------------------------------------------


@pytest.fixture
def ran(folder, tmp_path, monkeypatch):
    """The file that code in the folder writes when it runs; questions are answered by y."""
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own:\n    pass\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hub"))
    return tmp_path / "ran"


def name_code(folder, config, tokenizer):
    names = dict.fromkeys(["AutoConfig", "AutoModelForCausalLM"], "own.Own")
    edit_config(folder, **{"auto_map": names | {"AutoModelForImageTextToText": "own.Own"}} | config)
    edit_json(
        folder / "tokenizer_config.json",
        **{"auto_map": {"AutoTokenizer": ["own.Own", None]}} | tokenizer,
    )


@pytest.mark.parametrize("read", [read_config, load], ids=["config", "model"])
def test_a_configuration_that_needs_its_own_code_is_refused_by_name(folder, ran, read, capsys):
    name_code(folder, {"model_type": "own"}, {})
    with pytest.raises(NeedsOwnCode, match="auto_map") as refusal:
        read(folder)
    assert str(folder) in str(refusal.value) and "trust_remote_code" not in str(refusal.value)
    assert not ran.exists() and "[y/N]" not in capsys.readouterr().out


def test_a_model_that_needs_its_own_code_is_refused_by_name(folder, ran, capsys):
    name_code(folder, {"model_type": "clip_text_model"}, {})
    with pytest.raises(NeedsOwnCode, match="auto_map"):
        load(folder)
    assert not ran.exists() and "[y/N]" not in capsys.readouterr().out


def test_a_tokenizer_that_needs_its_own_code_is_refused_by_name(folder, ran, capsys):
    name_code(folder, {"model_type": "clip_vision_model"}, {"tokenizer_class": "Own"})
    with pytest.raises(NeedsOwnCode, match="auto_map"):
        read_tokenizer(folder)
    assert not ran.exists() and "[y/N]" not in capsys.readouterr().out


def test_code_of_a_model_that_does_not_need_it_is_ignored(folder, ran, capsys):
    name_code(folder, {}, {})
    model, tokenizer = load(folder)
    assert type(model).__module__.startswith("transformers.") and tokenizer("a")["input_ids"]
    assert not ran.exists() and "[y/N]" not in capsys.readouterr().out
