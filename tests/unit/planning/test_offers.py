"""Promises about speeds and prices: what was measured counts, and a market's answer is told."""

import json
import sys
import types
from pathlib import Path

import pytest

from ablation.config.load import load_study
from ablation.planning import prices

ROOT = Path(__file__).resolve().parents[3]
MARKET = prices.Market.read(ROOT / "resources/planning/offers.json")

# ---- how fast ------------------------------------------------------------------------------------

BENCHMARK = ROOT / "benchmarks/results/h100.json"
SLOW = load_study({}, ROOT / "config").hardware


def test_the_fast_path_is_as_measured_and_any_other_never_faster(tmp_path):
    fast = SLOW.model_copy(update={"attention": "flex_attention", "compile": True})
    measured = prices.measured_rates(MARKET, fast, BENCHMARK, tmp_path)
    known = json.loads(BENCHMARK.read_text())
    assert measured.step_seconds == known["training"]["step16_s"]["ours"]
    assert measured.gpu == "H100_SXM" and "measured on NVIDIA H100" in measured.source
    bound = prices.measured_rates(MARKET, SLOW, BENCHMARK, tmp_path)
    assert bound.step_seconds > measured.step_seconds
    assert bound.items_per_second < measured.items_per_second
    assert "nothing was measured for attention: sdpa" in bound.source


def test_a_larger_model_takes_longer_by_its_weights_and_a_smaller_one_as_long(tmp_path):
    measured = prices.benchmarked(MARKET, SLOW, BENCHMARK)
    eight = prices.measured_rates(MARKET, SLOW, BENCHMARK, tmp_path, 8.0)
    times = 8 / 3.43
    assert eight.step_seconds == pytest.approx(times * measured.step_seconds)
    assert eight.items_per_second == pytest.approx(measured.items_per_second / times)
    assert "for 8 B weights 2.3 times as long" in eight.source
    assert prices.measured_rates(MARKET, SLOW, BENCHMARK, tmp_path, 0.1) == measured


@pytest.mark.parametrize("name, billions", [("rehearsal3b", 3.43), ("rehearsal8b", 7.5)])
def test_the_weights_of_a_random_base_are_counted(name, billions):
    study = load_study({"extends": f"{name}.yaml"}, ROOT / "config")
    assert prices.billions_of(study) == billions  # as torch counts those of the model
    assert prices.billions_of(load_study({}, ROOT / "config")) == prices.BILLIONS


def run_of(folder, gpus, tokens_per_second=1000.0):
    folder.mkdir(parents=True)
    run = {"gpus": [{"name": name} for name in gpus], "tokens_per_second": tokens_per_second}
    (folder / "run.json").write_text(json.dumps(run))
    summary = {"steps": 10, "tokens": 32000, "recipe": {"batch_examples": 32}}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_earlier_runs_of_the_study_count_more_than_the_benchmark(tmp_path):
    run_of(tmp_path / "stage3_finetune/3A/seed1", ["NVIDIA GeForce RTX 3090"])
    seen = prices.measured_rates(MARKET, SLOW, BENCHMARK, tmp_path)
    # 32 s for 320 examples: 1.6 s for 16
    assert (seen.gpu, seen.step_seconds) == ("RTX_3090", pytest.approx(1.6))
    assert "stage3_finetune/3A/seed1" in seen.source
    # of two, the one that makes the plan dearer
    run_of(tmp_path / "stage3_finetune/3B/seed1", ["NVIDIA H100 80GB HBM3"])
    assert prices.measured_rates(MARKET, SLOW, BENCHMARK, tmp_path).gpu == "H100_SXM"


@pytest.mark.parametrize("gpus", [[], ["Unheard Of 1"], ["RTX 3090", "RTX 3090"]])
def test_runs_on_no_known_single_gpu_say_nothing(tmp_path, gpus):
    run_of(tmp_path / "stage3_finetune/3A/seed1", gpus)
    assert prices.measured_rates(MARKET, SLOW, BENCHMARK, tmp_path).gpu == "H100_SXM"


# ---- live offers ---------------------------------------------------------------------------------


def row(gpu, count, price, memory, spot=False):
    return types.SimpleNamespace(
        provider="vastai",
        location="PL",
        gpu_name=gpu,
        gpu_count=count,
        price=price,
        gpu_memory=memory,
        spot=spot,
    )


@pytest.fixture
def gpuhunt(monkeypatch):
    """The parts of gpuhunt that are used, without a network, and no key of another market."""
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)

    class Catalog:
        rows = []

        def __init__(self, **options):
            assert not options["auto_reload"]  # which would download every provider's catalogue

        def add_provider(self, provider):
            self.provider = provider

        def query(self, **asked):
            assert self.provider and asked["provider"] == ["vastai"]
            Catalog.asked = asked
            if isinstance(self.rows, Exception):
                raise self.rows
            return self.rows

    providers = types.SimpleNamespace(VastAIProvider=object)
    monkeypatch.setitem(sys.modules, "gpuhunt", types.SimpleNamespace(Catalog=Catalog))
    monkeypatch.setitem(sys.modules, "gpuhunt.providers", types.SimpleNamespace(vastai=providers))
    monkeypatch.setitem(sys.modules, "gpuhunt.providers.vastai", providers)
    return Catalog


def test_live_offers_are_of_known_gpus_with_their_own_memory(gpuhunt):
    gpuhunt.rows = [
        row("H100NVL", 2, 5.0, 94.0),
        row("H100", 1, 1.2, 80.0, spot=True),
        row("RTX3090", 3, 0.6, 24.0),  # no class of three
        row("B300", 1, 9.0, 288.0),  # of unknown speed
        row(None, 0, 0.1, None),
    ]
    found = prices.live_offers(MARKET)
    assert [(o.name, o.dollars_per_hour, o.memory_mb) for o in found] == [
        ("2x H100_NVL", 5.0, 96256),
        ("1x H100_PCIE (interruptible)", 1.2, 81920),  # the market says no more than H100
    ]
    assert found[0].source == "vastai now, PL"
    assert gpuhunt.asked["min_gpu_memory"] is None
    prices.live_offers(MARKET, gpu_mem_mb=51200)
    assert gpuhunt.asked["min_gpu_memory"] == 50


def test_a_market_that_does_not_answer_is_told(gpuhunt):
    gpuhunt.rows = ConnectionError("no route")
    with pytest.raises(prices.NoOffers, match="ConnectionError: no route"):
        prices.live_offers(MARKET)


def test_without_gpuhunt_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpuhunt", None)
    with pytest.raises(prices.NoOffers, match=r"\.\[prices\]"):
        prices.live_offers(MARKET)


def test_with_a_key_the_offers_of_runpod_are_live_ones_too(gpuhunt, monkeypatch):
    from fakes.runpod import FakeRunPod

    gpuhunt.rows = [row("H100NVL", 2, 5.0, 94.0)]
    with FakeRunPod(time_scale=0, limits=False, machines=False) as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        found = {offer.source: offer for offer in prices.live_offers(MARKET)}
        assert set(found) == {"vastai now, PL"} | {
            f"runpod now, {place}" for place in ("EU-RO-1", "US-KS-2", "CA-MTL-1")
        }
        assert found["runpod now, CA-MTL-1"].name == "1x H100_SXM"
        assert {call.status for call in fake.requests} == {200}
        monkeypatch.setenv("RUNPOD_API_KEY", "wrong")
        with pytest.raises(prices.NoOffers, match="RunPod did not answer"):
            prices.live_offers(MARKET)
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert len(prices.live_offers(MARKET)) == 1
