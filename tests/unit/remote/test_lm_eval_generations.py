"""Promises of `ablation export lm-eval` for generated texts: the files are those of lm-eval itself.

A tiny model writes for real; lm-eval lets the same model write, and its own tracker writes the
files that the export is compared with.
"""

import json
import shutil
from pathlib import Path

import lm_eval
import pandas as pd
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import make_table

from ablation.cli.main import main
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.data.lm_eval_samples import read_samples
from ablation.data.task_files import task_hashes
from ablation.provenance.files import write_json
from ablation.scoring.generation.evaluate import evaluate_generation
from ablation.scoring.generation.items import GenerationItems
from tests.support import scored_study
from tests.support.gsm import TASK, write_gsm
from tests.support.scored_study import lm_evals_files, manifest
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

HOME = "results/own"
DATE = "2026-11-24T02-18-46.540000"
CONDITIONS = {
    "stage1_baseline": ("causal", {}),
    "stage2_ablation/prefill_bidir": ("prefill_bidir", {}),
    "stage4_posteval/3B-leaky/seed1/causal": (
        "causal",
        {"recipe": "3B-leaky", "seed": 1, "train_leaks": True},
    ),
}


def write_study(tokenizer):
    """A study whose tiny model has generated the texts of a task in GSM8K's format."""
    data, tasks = Path(HOME, "base/generation_items"), Path("config/tasks")
    write_gsm(tasks, items=6, task=TASK.replace("[0-9]", "[0-9A-Za-z]"))
    data.mkdir(parents=True)
    for split in ("train", "test"):
        (tasks / f"{split}.jsonl").rename(data / f"{split}.jsonl")
    items = manifest(data / "manifest.json", "fetch_generation_items", {}, sorted(data.iterdir()))
    Path(f"{HOME}/base/weights.json").write_text("{}")
    base = Path(f"{HOME}/base/manifest.json")
    upstream = items | manifest(base, "base", {}, [base.with_name("weights.json")])
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    built = GenerationItems(tokenizer, ["gsm"], tasks, data)
    config = {
        "evaluation": {"tasks": ["gsm"], "fewshot_seed": 1234, "num_fewshot": None},
        "task_files": task_hashes(Path("config"), ["gsm"]),
    }
    for place, (mask, facts) in CONDITIONS.items():
        home = Path(HOME, place, "generated")
        home.mkdir(parents=True)
        result = evaluate_generation(model, built, mask, "m")
        used = {"lm_eval": lm_eval.__version__, "dtype": "float32"}
        facts = facts | {"mask": mask, "eval_leaks": False, "circumstances": used}
        stage = f"{place.partition('_')[0]}_generation"
        manifest(home / "manifest.json", stage, config, result.write(home), upstream, **facts)
        write_json(home / "run.json", {"date": 1795486726.54, "seconds": 1.5, "git_hash": "abc"})


@pytest.fixture(scope="module")
def study(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_study(tokenizer)
        assert main(["export", "lm-eval", HOME, "--out", "out"]) == 0
    return root


@pytest.fixture
def root(study, tmp_path, monkeypatch):
    """A copy of the study, which a test may change, as the working directory."""
    shutil.copytree(study, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture(scope="module")
def stock(study, tokenizer, tmp_path_factory):
    """The folder in which lm-eval itself writes what the same model generates."""
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    tasks, data = study / "config/tasks", study / HOME / "base/generation_items"
    return lm_evals_files(lm, "gsm", tasks, data, tmp_path_factory.mktemp("stock"))


def results_in(folder):
    (file,) = folder.glob("results_*.json")
    return json.loads(file.read_text("utf-8"))


def samples_in(folder):
    (file,) = folder.glob("samples_gsm_*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_the_files_are_those_that_lm_eval_itself_writes(study, stock):
    folder = study / "out/own__base-causal"
    assert {file.name for file in folder.iterdir()} == {
        f"results_{DATE}.json",
        f"samples_gsm_{DATE}.jsonl",
    }
    mine, theirs = results_in(folder), results_in(stock)
    for key in ("versions", "n-shot", "n-samples", "higher_is_better", "group_subtasks"):
        assert mine[key] == theirs[key]
    assert mine["task_hashes"] == theirs["task_hashes"]
    own, expected = (found["results"]["gsm"] for found in (mine, theirs))
    stderr = {key for key in expected if "_stderr" in key}
    assert list(own) == list(expected)
    assert {k: v for k, v in own.items() if k not in stderr} == {
        k: v for k, v in expected.items() if k not in stderr
    }
    assert mine["configs"]["gsm"]["output_type"] == "generate_until"
    lines, wanted = samples_in(folder), samples_in(stock)
    added = {"cluster", "condition", "leaks"}
    assert len(lines) == 12 and {line["filter"] for line in lines} == set(
        ("strict-match", "flexible-extract")
    )
    assert [{k: v for k, v in line.items() if k not in added} for line in lines] == wanted
    assert list(wanted[0]) == [key for key in lines[0] if key not in added]
    assert any(line["resps"][0][0] for line in lines)


def test_conditions_and_leaks_are_named(study):
    names = {folder.name for folder in (study / "out").iterdir()}
    assert names == {
        "own__base-causal",
        "own__base-prefill_bidir",
        "own__3B-leaky-seed1-causal-LEAKS-train",
    }
    leaking = study / "out/own__3B-leaky-seed1-causal-LEAKS-train"
    assert "gsm [LEAKS train, causal]" in make_table(results_in(leaking))
    assert {line["leaks"] for line in samples_in(leaking)} == {"train"}


def test_an_export_pairs_with_the_file_of_the_stock_command(study, stock, capsys):
    (mine,), (theirs,) = (
        folder.glob("samples_gsm_*") for folder in (study / "out/own__base-causal", stock)
    )
    assert main(["compare", str(mine), str(theirs), "--format", "csv"]) == 0
    rows = [row.split(",") for row in capsys.readouterr().out.splitlines()[1:]]
    assert [row[1:4] for row in rows] == [
        ["exact_match", name, "6"] for name in ("strict-match", "flexible-extract")
    ]
    assert all(row[7] == "0.0" for row in rows)
    assert len(read_samples(mine).items) == 6


@pytest.mark.parametrize("removed", ["by the option", "as from an archive"])
def test_without_texts_judgements_stay_and_no_text_is_written(root, capsys, removed):
    if removed == "by the option":
        words = ["--no-texts"]
    else:
        words = []
        for file in [*root.rglob(TEXTS), *(root / HOME / "base/generation_items").glob("*.jsonl")]:
            file.unlink()
    assert main(["export", "lm-eval", HOME, "--out", "bare", *words]) == 0
    assert "without texts" in capsys.readouterr().out
    whole, bare = (samples_in(root / out / "own__base-causal") for out in ("out", "bare"))
    for line, other in zip(bare, whole, strict=True):
        assert line["doc"] == {} and line["target"] == "" and line["resps"] == [[""]]
        assert line["filtered_resps"] == [""] and line["arguments"]["gen_args_0"]["arg_0"] == ""
        assert line["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 20
        kept = ("doc_id", "filter", "exact_match", "doc_hash", "prompt_hash", "target_hash")
        assert {k: line[k] for k in kept} == {k: other[k] for k in kept}


def test_edited_judgements_are_not_exported(root, capsys):
    file = root / HOME / "stage1_baseline/generated" / ROWS
    rows = pd.read_parquet(file)
    rows.assign(exact_match=~rows.exact_match).to_parquet(file, index=False)
    assert main(["export", "lm-eval", HOME, "--out", "again"]) == 1
    assert f"{ROWS} has changed since" in capsys.readouterr().err


def test_choices_and_texts_of_a_model_share_a_folder_and_no_file(root, tokenizer):
    """Also where no run record says when they were made."""
    for file in root.rglob("run.json"):
        file.unlink()
    chosen = root / "chosen"
    chosen.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(chosen)
        scored_study.write(tokenizer)
    scored = root / HOME / "stage1_baseline"
    for file in (chosen / HOME / "stage1_baseline").iterdir():
        shutil.copy(file, scored)
    (scored / "run.json").unlink()
    assert main(["export", "lm-eval", HOME, "--out", "both", "--mask", "causal", "--no-texts"]) == 0
    names = sorted(file.name for file in (root / "both/own__base-causal").iterdir())
    assert [name.partition("_")[0] for name in names] == ["results"] * 2 + ["samples"] * 2
