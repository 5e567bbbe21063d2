"""Promises of `make bench-gpu`, tested with a tiny model on a CPU."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the benchmark has run once."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--toy", "--commit", "abc"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", preloaded.VARIABLE: preloaded.servers()}
    environment["PYTHONPATH"] = f"{preloaded.START}:{ROOT / 'src'}"
    command += ["--out", str(folder / "toy.json")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


def test_every_section_runs_and_is_in_the_record(folder):
    record = json.loads((folder / "toy.json").read_text())
    rates = record["scoring"]["items_per_s"]
    assert set(rates) == {"ours_causal", "ours_prefill_bidir", "hflm", "seed_loop"}
    assert all(rate > 0 for rate in rates.values())
    assert all(0 <= error < 1e-5 for error in record["scoring"]["relative_error"].values())
    texts = record["generation"]["texts_per_s"]
    assert set(texts) == {"ours_causal", "ours_prefill_bidir", "hflm"}
    assert all(rate > 0 for rate in texts.values())
    assert all(seconds > 0 for seconds in record["training"]["step16_s"].values())
    assert record["training"]["tokens_per_s"]["ours"] > 0
    assert {"model_tflops", "peak_gib"} <= set(record["training"])
    assert {"name", "driver", "matmul_tflops"} <= set(record["machine"])
    assert record["libraries"]["torch"] and record["commit"] == "abc"
    (job,) = record["scoring_job"]["toy"].values()
    assert job["job_s"] > job["ready_s"] > 0 and job["ratio"] > 1 and len(job["masks_s"]) == 3
    assert min(record["end_to_end"]["toy"]["ours_s"].values()) > 0
    growth = record["sections"]["scoring_growth"]
    assert [g["times"] for g in growth["work"]] == [1, 2, 4]
    long = record["sections"]["long_prompts"]["rows"]
    scorers = ["hflm", "causal", "prefill_bidir", "window"]
    assert [(row["tokens"], row["scorer"]) for row in long] == [
        (tokens, scorer) for tokens in (96, 160) for scorer in scorers
    ]
    assert all(row["seconds"] > 0 for row in long)


def test_two_gpus_are_compared_with_one_of_the_same_machine(folder):
    record = json.loads((folder / "toy.json").read_text())
    one, two = record["sections"]["one_gpu"], record["sections"]["two_gpus"]
    assert set(one["training"]) == {"published", "tokens_64k", "weak_16k_a_gpu"}
    for work in ("published", "tokens_64k"):  # the same work
        alone, shared = one["training"][work], two["training"][work]
        assert alone["tokens_per_step"] == shared["tokens_per_step"]
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert len(shared["peak_gib"]) == 2 and len(alone["peak_gib"]) == 1
    grown = two["training"]["weak_16k_a_gpu"]["tokens_per_step"]
    assert grown > 1.5 * one["training"]["weak_16k_a_gpu"]["tokens_per_step"]
    assert two["scoring"]["sum"] == one["scoring"]["sum"] and two["scoring"]["repeatable"]
    assert two["training"]["tokens_64k_again"]["loss"] == pytest.approx(shared["loss"], rel=1e-4)
    eight = record["sections"]["eight_b"]
    for size, lora in eight["lora_on_one"].items():
        full = eight["full_on_two"][size]
        assert full["tokens_per_step"] == lora["tokens_per_step"] == int(size) * 16
        assert len(full["peak_gib"]) == 2 and len(lora["peak_gib"]) == 1
    share = two["scoring"]["items_per_s"] / one["scoring"]["items_per_s"] / 2
    assert record["efficiency"]["2"]["scoring"] == pytest.approx(share, abs=1e-3)


@pytest.fixture
def made_by(monkeypatch, tmp_path):
    """made_by(script, page): a function from a result to the page that the script makes of it."""

    def maker(script: str, name: str):
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        shutil.copy(ROOT / "docs" / name, tmp_path)

        def page_of(record: Path) -> str:
            monkeypatch.setattr(sys, "argv", [script, str(record), "--docs", str(tmp_path)])
            importlib.import_module(script).main()
            return (tmp_path / name).read_text()

        return page_of

    return maker


def test_the_page_is_made_from_the_record_with_or_without_trl(made_by, tmp_path):
    page_of = made_by("gpu_figure", "performance.md")
    measured = ROOT / "benchmarks/results/h100.json"
    page = page_of(measured)
    assert page == (ROOT / "docs/performance.md").read_text()
    record = json.loads(measured.read_text())
    record["training"]["tokens_per_s"]["trl"] = None
    (tmp_path / "without.json").write_text(json.dumps(record))
    lines = page_of(tmp_path / "without.json").splitlines()
    assert lines == [line for line in page.splitlines() if "TRL, packed" not in line]


def test_the_page_of_several_gpus_is_made_from_its_record(folder, made_by, tmp_path):
    page_of = made_by("gpu_ranks_figure", "performance.md")
    published = page_of(ROOT / "benchmarks/results/h100_two.json")
    assert published == (ROOT / "docs/performance.md").read_text()
    assert (tmp_path / "performance_gpus.svg").stat().st_size > 1000
    assert "| 64k tokens a step | 2 | " in page_of(folder / "toy.json")


def test_the_page_of_long_prompts_is_made_from_its_results(folder, made_by, tmp_path):
    made_from = made_by("long_prompts_figure", "long_prompts.md")
    shown = (ROOT / "docs/long_prompts.md").read_text()
    assert made_from(ROOT / "benchmarks/results/long_prompts.json") == shown
    drawn = (tmp_path / "long_prompts_cpu.svg").read_bytes()
    assert drawn == (ROOT / "docs/long_prompts_cpu.svg").read_bytes()
    measured = made_from(folder / "toy.json")  # of a GPU, once there is one
    assert "| 96 | " in measured and "NOT MEASURED" not in measured
    assert measured.partition("## On a GPU")[0] == shown.partition("## On a GPU")[0]


def test_the_fast_step_equals_the_plain_step(folder):
    check = json.loads((folder / "toy.json").read_text())["sections"]["training_check"]
    assert check["loss"]["fast"] == pytest.approx(check["loss"]["float32"], rel=1e-5)
    assert check["gradient_error"]["fast"] < 1e-4


def test_finished_sections_are_kept_for_the_same_machine_driver_and_commit(
    folder, monkeypatch, capsys
):
    kept = folder / "toy.sections.json"
    before = json.loads(kept.read_text())
    del before["sections"]["machine"]
    kept.write_text(json.dumps(before))
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu import main

    same = ["--toy", "--commit", "abc", "--out", str(folder / "toy.json")]
    assert main(same) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "section_seconds" in line] == ["machine"]
    assert main([*same, "--commit", "other", "--seconds", "-1"]) == 1
    assert json.loads((folder / "toy.json").read_text())["sections"] == {}


@pytest.mark.parametrize("text", ["no marks", "one <!-- measured -->\nmark"])
def test_a_page_without_both_marks_is_refused_and_stays_as_it_was(monkeypatch, tmp_path, text):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from marked import write_between

    page, mark = tmp_path / "page.md", "<!-- measured -->\n"
    page.write_text(text)
    with pytest.raises(ValueError, match="page.md has no <!-- measured --> with a"):
        write_between(page, mark, mark, "numbers")
    assert page.read_text() == text
