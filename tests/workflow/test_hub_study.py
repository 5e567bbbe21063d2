"""Promise: a study of a hub model (FP8, multimodal) runs from the hub's cache alone."""

import json
import sys

import pandas as pd
import pytest
import yaml
from conftest import ROOT, Checkout, copy_of_the_repository

sys.path.insert(0, str(ROOT))
from tests.support import benchmarks
from tests.support.checkpoints import quantize, write_multimodal
from tests.support.fake_hub import FakeHub

pytestmark = [pytest.mark.study, pytest.mark.long]

MODEL, ALPACA = "mistralai/Tiny-Instruct", "yahma/alpaca-cleaned"
RECORDS = [
    {"instruction": f"Give key {n} to Eve.", "input": "red" * (n % 2), "output": f"Eve has {n}."}
    for n in range(40)
]
STUDY = {
    "study": "hub",
    "base": MODEL,
    "instructions": {"data": ALPACA, "count": 30},
    "seeds": [1],
    "hardware": {"dtype": "bfloat16"},
    "finetune": {"max_steps": 2, "warmup_steps": 1, "batch_examples": 4, "micro_batch_examples": 4}
    | {"log_steps": 1, "save_steps": 2, "eval_steps": 2, "eval_samples": 2}
    | {"stops": {"no_learning": None}},
    "recipes": {"3B": {"train_mask": "prefill_bidir"}},
    "evaluation": {"tasks": ["winogrande", "arc_easy", "published_arc_easy"]},
}
TARGETS = [
    "results/hub/stage1_baseline/manifest.json",
    "results/hub/stage4_posteval/3B/seed1/causal/manifest.json",
    "results/hub/mask_cells.csv",
    "results/hub/stage1_baseline/metrics.json",
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    home = tmp_path_factory.mktemp("hub")
    fake = FakeHub(home / "cache")
    quantize(write_multimodal(home / "model"))
    pins = {MODEL: fake.add_folder(MODEL, home / "model")}
    copies = benchmarks.write_copies(home / "copies", odd=False)
    for name in ("allenai/ai2_arc", "allenai/winogrande"):
        pins[name] = fake.add_folder(name, copies / name, "dataset")
    data = {"alpaca_data_cleaned.json": json.dumps(RECORDS).encode(), "README.md": b"# data"}
    pins[ALPACA] = fake.add(ALPACA, data, "dataset")

    checkout = Checkout(copy_of_the_repository(home / "clone"), preloaded=True)
    (checkout.folder / "hub.yaml").write_text(yaml.safe_dump(STUDY | {"pins": pins}))
    checkout.options = ["--configfile", "hub.yaml"]
    checkout.pins, checkout.cache = pins, fake.cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(fake.cache))
        checkout.run(*TARGETS, *checkout.options)
        yield checkout


def manifest(hub, path):
    return json.loads((hub.folder / "results/hub" / path).read_text())


def test_the_base_is_pinned_by_the_hubs_hashes_and_its_weights_stay_in_the_cache(hub):
    base = manifest(hub, "base/manifest.json")
    assert (base["model"], base["model_sha"]) == (MODEL, hub.pins[MODEL])
    assert set(base["files"]["model.safetensors"]) == {"bytes", "sha256"}
    assert base["outputs"] == {}
    assert not list((hub.folder / "results/hub/base").rglob("*.safetensors"))


def test_the_finetuned_model_is_a_plain_text_model(hub):
    folder = hub.folder / "results/hub/stage3_finetune/3B/seed1"
    config = json.loads((folder / "model/config.json").read_text())
    assert config["architectures"] == ["Ministral3ForCausalLM"]
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert json.loads((folder / "summary.json").read_text())["train_examples"] == 29


def test_data_sets_are_copied_split_by_split_with_their_commits(hub):
    items = manifest(hub, "base/items/benchmarks.manifest.json")
    names = {"test": "test-00000-of-00001", "validation": "validation-00000-of-00001"}
    arc = {f"allenai/ai2_arc/ARC-Easy/{name}.parquet" for name in names.values()}
    assert set(items["outputs"]) == arc | {"allenai/winogrande/winogrande_xl/validation.jsonl"}
    assert items["fingerprint"]["config"]["pins"]["allenai/ai2_arc"] == hub.pins["allenai/ai2_arc"]
    learned = hub.folder / "results/hub/base/instructions/finetune.jsonl"
    assert [json.loads(line) for line in learned.read_text().splitlines()] == RECORDS[:30]


def test_one_job_scores_the_tasks_of_both_protocols(hub):
    samples = pd.read_parquet(hub.folder / "results/hub/stage1_baseline/samples.parquet")
    assert set(samples.task) == {*STUDY["evaluation"]["tasks"]}
    tasks = json.loads((hub.folder / "results/hub/stage1_baseline/metrics.json").read_text())
    assert {"macro", "published_macro"} < set(tasks["tasks"])


def test_another_commit_makes_exactly_what_stands_on_it_stale(hub):
    other = {**hub.pins, "allenai/winogrande": "d" * 40}
    (hub.folder / "other.yaml").write_text(yaml.safe_dump(STUDY | {"pins": other}))
    stale = hub.stale(*TARGETS, options=("--configfile", "other.yaml"))
    assert stale == {"base_benchmarks", "stage1_baseline", "stage1_metrics", "stage4_posteval:3B"}


def test_a_damaged_weight_is_named_before_anything_is_scored(hub):
    snapshot = hub.cache / "models--mistralai--Tiny-Instruct/snapshots" / hub.pins[MODEL]
    blob = (snapshot / "model.safetensors").resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = hub.snakemake("--cores", "1", "--force", TARGETS[0], *hub.options, check=False)
    blob.write_bytes(content)
    assert done.returncode and "model.safetensors differs from the file on the hub" in done.stderr
