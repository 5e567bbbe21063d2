"""Promises about model folders of strangers: only files that provenance lists are read."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from ablation.model.checkpoints import load
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
