"""Promise: stages 0 to 4 run on other decoders by configuration alone."""

import json

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, Checkout, copy_of_the_repository
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

pytestmark = pytest.mark.study

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    "name, kind, settings",
    [("llama", LlamaForCausalLM, LlamaConfig), ("qwen3", Qwen3ForCausalLM, Qwen3Config)],
)
def test_stages_run_on_another_decoder(tmp_path, name, kind, settings):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "resources/micro/base")
    model = kind(settings(vocab_size=len(tokenizer), tie_word_embeddings=name == "qwen3", **SHAPE))
    model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / name / ".gitattributes").write_text("*.safetensors lfs\n")  # as a hub clone has

    checkout = Checkout(copy_of_the_repository(tmp_path / "clone"))
    config = {
        "study": name,
        "base": str(tmp_path / name),
        "seeds": [1],
        "recipes": {"3B": {"train_mask": "prefill_bidir"}},
        "finetune": {"max_steps": 3, "warmup_steps": 1, "log_steps": 1, "eval_steps": 2}
        | {"stops": {"no_learning": None}},
        "evaluation": {"limit": 5},
    }
    (checkout.folder / "other.yaml").write_text(yaml.safe_dump(config))
    checkout.run("results/recovery.csv", "--configfile", "other.yaml")

    table = pd.read_csv(checkout.folder / "results/recovery.csv")
    assert set(table.study) == {name} and set(table.n) == {5, 25}
    summary = checkout.folder / f"results/{name}/stage3_finetune/3B/seed1/summary.json"
    assert json.loads(summary.read_text())["steps"] == 3

    model.get_input_embeddings().weight.data.add_(0.5)
    model.save_pretrained(tmp_path / name)  # other weights in the same folder are another base
    stale = checkout.stale(options=("--configfile", "other.yaml"))
    assert stale >= {"base", "stage1_baseline", "stage2_ablation", "stage3_finetune:3B"}
