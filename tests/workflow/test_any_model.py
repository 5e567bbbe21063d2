"""Promises: stages 0 to 4 run on other decoders by configuration alone; two studies keep apart."""

import json

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, Checkout, copy_of_the_repository
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

pytestmark = [pytest.mark.study, pytest.mark.long]

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


FEWER = {"micro_piqa": 1, "open": 1}  # the families of the records of a second recipe
KINDS = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen3": (Qwen3ForCausalLM, Qwen3Config)}


class Study:
    """A study of a decoder with random weights, beside others in one clone."""

    def __init__(self, checkout, name):
        torch.manual_seed(0)
        kind, settings = KINDS[name]
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "resources/micro/base")
        tied = {"tie_word_embeddings": name == "qwen3"}
        self.model = kind(settings(vocab_size=len(tokenizer), **tied, **SHAPE))
        self.checkout, self.base = checkout, checkout.folder.parent / name
        self.model.save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)
        (self.base / ".gitattributes").write_text("*.safetensors lfs\n")  # as a hub clone has
        self.config = {
            "study": name,
            "base": str(self.base),
            "seeds": [1],
            "recipes": {"3B": {"train_mask": "prefill_bidir"}, "3B-fewer": {"records": FEWER}},
            "finetune": {"max_steps": 3, "warmup_steps": 1, "log_steps": 1, "eval_steps": 2}
            | {"stops": {"no_learning": None}},
            "evaluation": {"limit": 5},
        }
        (checkout.folder / f"{name}.yaml").write_text(yaml.safe_dump(self.config))
        self.options = ("--configfile", f"{name}.yaml")
        checkout.run("results/recovery.csv", *self.options)

    def stale(self):
        return self.checkout.stale(options=self.options)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Each made after the other, in one clone."""
    checkout = Checkout(
        copy_of_the_repository(tmp_path_factory.mktemp("models") / "clone"), preloaded=True
    )
    return {name: Study(checkout, name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_stages_run_on_another_decoder(studies, name):
    results = studies[name].checkout.folder / "results" / name
    table = pd.read_csv(results / "recovery.csv")
    assert set(table.study) == {name} and set(table.n) == {5, 20, 25}
    exposure = table[table.recipe == "3B-fewer"].groupby("exposure").task.unique()
    assert set(exposure["trained"]) == {"micro_piqa", "macro_trained"}
    assert set(exposure["mixed"]) == {"macro"} and "macro_held_out" in set(exposure["held_out"])
    assert set(table[table.recipe == "3B"].exposure) == {"trained"}
    lines = (results / "base/instructions_of/3B-fewer/finetune.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {record["family"] for record in records} == set(FEWER)
    verdict = json.loads((results / "base/manifest.json").read_text())["stock_agreement"]
    assert verdict["compared"] and verdict["agrees"] == ["plain", "packed", "branch"]
    for job in ("base", "stage1_baseline", "stage3_finetune/3B/seed1"):
        run = json.loads((results / job / "run.json").read_text())
        assert 0 <= run["stock_agreement"]["branch"] <= run["stock_agreement"]["tolerance"]
    summary = results / "stage3_finetune/3B/seed1/summary.json"
    assert json.loads(summary.read_text())["steps"] == 3


def test_another_study_beside_it_takes_the_name_that_they_share_and_nothing_else(studies):
    first, second = (studies[name] for name in KINDS)
    named, own = (first.checkout.folder / f"results/{name}recovery.csv" for name in ("", "llama/"))
    assert second.stale() == set()
    assert first.stale() == {"recovery_named"} and named.read_bytes() != own.read_bytes()
    first.checkout.run("results/recovery.csv", *first.options)
    assert first.stale() == set() and named.read_bytes() == own.read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_other_weights_in_the_same_folder_are_another_base(studies, name):
    study = studies[name]
    study.model.get_input_embeddings().weight.data.add_(0.5)
    study.model.save_pretrained(study.base)
    stale = study.stale()
    assert stale >= {"base", "stage1_baseline", "stage2_ablation", "stage3_finetune:3B"}
