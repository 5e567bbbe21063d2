"""Promises about bad checkpoints and manifests: refused, with how to make them whole again."""

import json
import shutil

import pytest

from ablation.config import checks
from ablation.config.load import load_study
from ablation.provenance.manifests import StaleInput, read_manifest
from tests.support.checkpoints import edit_config, edit_json
from tests.support.refusals import ROOT, refusal


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


def sharded(folder, *shards):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {f"w{n}": shard for n, shard in enumerate(shards)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# what happened to the folder of a checkpoint, and what must be said of it
CHECKPOINTS = {
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "holds neither model.safetensors nor model.safetensors.index.json",
    ),
    "weights as pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "holds neither model.safetensors nor",
    ),
    "empty weights": (
        lambda f: cut(f / "model.safetensors", 0),
        "model.safetensors holds no whole",
    ),
    "weights cut off": (lambda f: cut(f / "model.safetensors"), "model.safetensors holds no whole"),
    "a pointer to weights": (
        lambda f: (f / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        "model.safetensors holds no whole",
    ),
    "a shard missing": (
        lambda f: sharded(f, "a.safetensors", "b.safetensors"),
        "b.safetensors is missing, but model.safetensors.index.json names it",
    ),
    "a shard cut off": (
        lambda f: (sharded(f, "a.safetensors"), cut(f / "a.safetensors")),
        "a.safetensors holds no whole",
    ),
    "index without shards": (sharded, "index.json names no weights"),
    "index cut off": (
        lambda f: (sharded(f, "a.safetensors"), cut(f / "model.safetensors.index.json")),
        "model.safetensors.index.json is no JSON",
    ),
    "a shard in another folder": (
        lambda f: (
            sharded(f, "../outside.safetensors"),
            (f / "a.safetensors").rename(f.parent / "outside.safetensors"),
        ),
        "names '../outside.safetensors', which is no visible file of this folder",
    ),
    "a hidden shard": (
        lambda f: (
            sharded(f, ".hidden.safetensors"),
            (f / "a.safetensors").rename(f / ".hidden.safetensors"),
        ),
        "names '.hidden.safetensors', which is no visible file of this folder",
    ),
    "weights that the configuration chooses": (
        lambda f: edit_config(f, transformers_weights=".hidden.safetensors"),
        "config.json chooses its files by `transformers_weights`",
    ),
    "a configuration that refers to another": (
        lambda f: edit_config(f, configuration_files=["../config.1.0.json"]),
        "config.json chooses its files by `configuration_files`",
    ),
    "a tokenizer that refers to another": (
        lambda f: edit_json(
            f / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.1.json"]
        ),
        "tokenizer_config.json chooses its files by `fast_tokenizer_files`",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    "tokenizer cut off": (lambda f: cut(f / "tokenizer.json"), "tokenizer.json is no JSON"),
    "configuration cut off": (lambda f: cut(f / "config.json"), "config.json is no JSON"),
    "configuration a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "holds no JSON object",
    ),
}


@pytest.mark.parametrize("harm, said", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_is_not_whole(configs, harm, said):
    folder = configs / "checkpoint"
    shutil.copytree(ROOT / "resources/micro/base", folder)
    load_study({"base": str(folder)}, configs)
    harm(folder)
    message = refusal(configs, f"base: {folder}")
    assert "base (" in message and said in message and "fetch it again" in message, message
    assert len(message.splitlines()) == 2, message


def test_an_architecture_that_no_mask_can_ablate_is_refused_when_the_study_is_loaded(configs):
    folder = configs / "checkpoint"
    shutil.copytree(ROOT / "resources/micro/base", folder)
    for values, said in (
        ({"model_type": "mamba"}, "state-space"),
        ({"text_config": {"model_type": "llama4_text"}}, "chunked attention"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention take no ready"),
        ({"model_type": "roberta"}, "positions start"),
    ):
        original = (folder / "config.json").read_text()
        edit_config(folder, **values)
        message = refusal(configs, f"base: {folder}")
        assert "base (" in message and said in message and "fetch it again" not in message
        (folder / "config.json").write_text(original)


def test_an_adapter_beside_its_base_is_refused_when_the_study_is_loaded(configs):
    folder = configs / "checkpoint"
    shutil.copytree(ROOT / "resources/micro/base", folder)
    (folder / "adapter_config.json").write_text("{}")
    message = refusal(configs, f"base: {folder}")
    assert (
        "holds an adapter" in message and "Merge it" in message and len(message.splitlines()) == 2
    )


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions"])
def test_a_training_longer_than_the_positions_of_the_base_is_refused(configs, key):
    folder = configs / "checkpoint"
    shutil.copytree(ROOT / "resources/micro/base", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config | {key: 16}))
    assert "the base reads at most 16 tokens" in refusal(configs, f"base: {folder}")


def test_a_checkpoint_in_shards_is_whole(configs):
    shutil.copytree(ROOT / "resources/micro/base", configs / "checkpoint")
    sharded(configs / "checkpoint", "a.safetensors", "a.safetensors")
    load_study({"base": str(configs / "checkpoint")}, configs)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "\udcff",
        '{"fingerprint": {}}',
        '{"fingerprint": {"config": {"world": {}}}}',
    ],
)
def test_a_shipped_base_whose_manifest_is_none(configs, monkeypatch, text):
    shutil.copytree(ROOT / "resources/micro", configs / "shipped")
    file = configs / "shipped/manifest.json"
    monkeypatch.setattr(checks, "SHIPPED", file.parent)
    load_study({}, configs)
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text.encode(errors="surrogateescape"))
    message = refusal(configs, "study: a")
    assert "base (" in message and f"{file} does not say" in message, message
    assert "fetch it again" in message and len(message.splitlines()) == 2, message


# ---- manifests -----------------------------------------------------------------------------------

STAMP = {"fingerprint": {"hash": "abc", "upstream": {}}}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "[]",
        "3",
        "null",
        "{}",
        json.dumps(STAMP),
        '{"fingerprint": [], "inputs": 1, "outputs": 2}',
    ]
    + [b"\xff"],
)
def test_a_manifest_that_is_none(tmp_path, text):
    file = tmp_path / "manifest.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StaleInput) as error:
        read_manifest(file, "abc")
    assert f"{file} is no manifest" in str(error.value) and "make it again: snakemake" in str(
        error.value
    )
