"""Promises of `ablation export lm-eval`: the files are lm-eval's own, and a leak is in all of them.

A tiny model is scored for real; lm-eval scores the same model itself, and its own tracker writes
the files that the export is compared with.
"""

import json
import re
import shutil
from pathlib import Path

import datasets
import pandas as pd
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_file_datetime, get_file_task_name, make_table

from ablation.cli.main import main
from ablation.data.lm_eval_samples import CLUSTER_FIELDS, read_samples
from ablation.provenance.manifests import write_manifest
from ablation.remote.lm_eval_output import Scored, sanitized
from ablation.scoring import items as scoring_items
from ablation.vocabulary.protocols import LM_EVAL_PROTOCOL
from tests.support import scored_study
from tests.support.scored_study import HOME, LEAKING, TASKS, lm_evals_files
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def study(tmp_path_factory, tokenizer):
    """The root of a scored study."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        scored_study.write(tokenizer)
    return root


@pytest.fixture
def root(study, tmp_path, monkeypatch):
    """A copy of the study, which a test may change, as the working directory."""
    shutil.copytree(study, tmp_path / "root", ignore=shutil.ignore_patterns("out"))
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture(scope="module")
def exported(study):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study)
        assert main(["export", "lm-eval", HOME, "--out", "out"]) == 0
    return study / "out"


def results_in(folder):
    (file,) = folder.glob("results_*.json")
    return json.loads(file.read_text("utf-8"))


def samples_in(folder, task):
    (file,) = folder.glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def stock(study, tokenizer, tmp_path_factory):
    """The folder in which lm-eval itself writes its scores of the same model."""
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", logits_cache=False)
    tasks, data = study / "config/tasks", study / HOME / "base/items"
    return lm_evals_files(lm, "tiny_keys", tasks, data, tmp_path_factory.mktemp("stock"))


def test_the_files_are_those_that_lm_eval_itself_writes(exported, stock):
    """All entries of lm-eval's files but those that this project cannot know."""
    (file,) = stock.glob("results_*.json")
    theirs, mine = json.loads(file.read_text()), results_in(exported / "own__base-causal")
    unknown = {"tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token"}
    unknown |= {"eot_token_id", "max_length"}
    assert set(theirs) - unknown == set(mine) - {"ablation"}
    for key in ("versions", "n-shot", "n-samples", "higher_is_better", "group_subtasks"):
        assert mine[key] == theirs[key]
    assert mine["task_hashes"] == theirs["task_hashes"]
    assert mine["lm_eval_version"] == theirs["lm_eval_version"]
    own, expected = (found["results"]["tiny_keys"] for found in (mine, theirs))
    assert own == pytest.approx(expected, rel=1e-12) and list(own) == list(expected)
    for line, wanted in zip(
        samples_in(exported / "own__base-causal", "tiny_keys"),
        samples_in(file.parent, "tiny_keys"),
        strict=True,
    ):
        added = {"cluster", "condition", "leaks"}
        assert list(wanted) == [key for key in line if key not in added]
        for key in ("resps", "filtered_resps"):
            (scores, responses), shape = (_numbers(line[key]), _numbers(wanted[key])), line[key]
            assert scores == pytest.approx(responses, abs=1e-4)
            assert _shape(shape) == _shape(wanted[key])
        assert {k: v for k, v in line.items() if k in wanted and "resps" not in k} == {
            k: v for k, v in wanted.items() if "resps" not in k
        }


def _numbers(nested):
    if isinstance(nested, list):
        return [number for inner in nested for number in _numbers(inner)]
    return [
        {"True": 1.0, "False": 0.0}.get(nested) if nested in ("True", "False") else float(nested)
    ]


def _shape(nested):
    return [_shape(inner) for inner in nested] if isinstance(nested, list) else type(nested)


def test_every_condition_and_protocol_has_a_folder_named_like_its_model(exported):
    found = {folder.name: results_in(folder) for folder in exported.iterdir()}
    assert set(found) == {
        "own__base-causal",
        "own__base-causal-published",
        "own__base-prefill_bidir",
        "own__base-prefill_bidir-published",
        "own__3B-seed1-full_bidir-LEAKS-train-eval",
        "own__3B-seed1-full_bidir-published-LEAKS-train-eval",
    }
    for name, results in found.items():
        assert sanitized(results["model_name"]) == results["model_name_sanitized"] == name
        published = "published" in name
        assert set(results["results"]) == {TASKS[published]}
        assert published == ("acc_token,none" in results["results"][TASKS[published]])
        for file in (exported / name).glob("samples_*"):
            assert get_file_task_name(file.name) == TASKS[published]
            assert get_file_datetime(file.name) == "2026-11-24T02-18-46.540000"


def test_a_leak_is_in_every_file_and_wherever_a_reader_takes_its_name_from(exported):
    folder = exported / sanitized(LEAKING)
    results = results_in(folder)
    assert results["model_name"] == results["config"]["model_args"]["pretrained"] == LEAKING
    assert results["config"]["model_args"]["leaks"] == results["ablation"]["leaks"] == "train eval"
    assert results["ablation"]["eval_leaks"] and results["ablation"]["leak_audit"]["leaks"]
    table = make_table(results)
    assert "[LEAKS train eval, full_bidir]" in table and re.match(r"\| *Tasks *\|Version\|", table)
    for line in samples_in(folder, "tiny_keys"):
        assert (line["leaks"], line["condition"]) == ("train eval", LEAKING)
    for other in ("base-causal", "base-prefill_bidir"):
        text = json.dumps(results_in(exported / f"own__{other}"))
        assert "LEAKS" not in text
    assert "tiny_keys [prefill_bidir]" in make_table(
        results_in(exported / "own__base-prefill_bidir")
    )


def test_what_converters_rely_on_is_there(exported):
    """Every Eval Ever's converter reads these entries; tests/workflow has the real one."""
    for folder in exported.iterdir():
        results = results_in(folder)
        owner, model = results["config"]["model_args"]["pretrained"].split("/")
        assert owner == "own" and model and isinstance(results["date"], float)
        for task, entries in results["results"].items():
            assert results["n-samples"][task]["effective"] == 8
            numbers = {key for key, value in entries.items() if isinstance(value, float)}
            named = {m["metric"] for m in results["configs"][task]["metric_list"]}
            assert numbers == {f"{m}{end},none" for m in named for end in ("", "_stderr")}
            for line in samples_in(folder, task):
                assert line["filter"] == "none" and set(line["metrics"]) == named
                assert all(line[metric] in (0.0, 1.0) for metric in named)
                assert {"gen_args_0", "gen_args_1", "gen_args_2"} == set(line["arguments"])


def test_the_means_of_the_samples_are_the_results(exported):
    for folder in exported.iterdir():
        for task, entries in results_in(folder)["results"].items():
            frame = pd.DataFrame(samples_in(folder, task))
            for metric in frame.metrics.iloc[0]:
                assert frame[metric].mean() == pytest.approx(entries[f"{metric},none"], rel=1e-12)


def test_equal_results_give_equal_bytes(root, exported, capsys):
    assert main(["export", "lm-eval", HOME, "--out", "again", "--recipe", "3B"]) == 0
    assert "2 models in again, a folder each; 2 named LEAKS" in capsys.readouterr().out
    for file in sorted((root / "again").rglob("*.json*")):
        assert file.read_bytes() == (exported / file.relative_to(root / "again")).read_bytes()


def test_without_texts_only_the_texts_are_missing_and_readers_read_it(root, exported, capsys):
    """As in an archive, which holds no items."""
    for file in (root / HOME / "base/items").glob("*.jsonl"):
        file.unlink()
    assert main(["export", "lm-eval", HOME, "--out", "bare", "--mask", "causal"]) == 0
    assert "without texts (the items are not here as they were scored)" in capsys.readouterr().out
    lines = samples_in(root / "bare/own__base-causal", "tiny_keys")
    for line, whole in zip(
        lines, samples_in(exported / "own__base-causal", "tiny_keys"), strict=True
    ):
        assert line["doc"] == {} and set(line["arguments"]) == set(whole["arguments"])
        assert all(texts == {"arg_0": "", "arg_1": ""} for texts in line["arguments"].values())
        assert {k: v for k, v in line.items() if k not in ("doc", "arguments")} == {
            k: v for k, v in whole.items() if k not in ("doc", "arguments")
        }  # the target too: its hash is that of the right choice's index
    (file,) = (root / "bare/own__base-causal").glob("samples_*")
    read = datasets.load_dataset("json", data_files=str(file), cache_dir=str(root / "c"))["train"]
    assert read[3]["filtered_resps"] == lines[3]["filtered_resps"]


def test_other_items_than_the_scored_ones_give_no_texts(root, capsys):
    file = root / HOME / "base/items/tiny_keys.jsonl"
    file.write_text(file.read_text().replace("keys", "locks"))
    manifest = json.loads((root / HOME / "base/items/manifest.json").read_text())
    outputs = [root / HOME / "base/items" / name for name in manifest["outputs"]]
    scored_study.manifest(root / HOME / "base/items/manifest.json", "base_items", {}, outputs)
    assert main(["export", "lm-eval", HOME, "--out", "out", "--mask", "causal"]) == 0
    said = capsys.readouterr().out
    assert "without texts (the items here are not those that were scored): tiny_keys" in said
    assert samples_in(root / "out/own__base-causal", "tiny_keys")[0]["doc"] == {}
    published = samples_in(root / "out/own__base-causal-published", "published_keys")
    assert published[0]["doc"]["query"] == "Bé has 0 keys and"


@pytest.mark.parametrize("changed", ["samples.parquet", "evaluation.json"])
def test_edited_rows_and_facts_are_not_exported(root, changed, capsys):
    with open(root / HOME / "stage1_baseline" / changed, "ab") as file:
        file.write(b" ")
    assert main(["export", "lm-eval", HOME, "--out", "out", "--mask", "causal"]) == 1
    assert f"{changed} has changed since" in capsys.readouterr().err
    assert not list((root / "out").rglob("*"))


def test_a_name_that_leads_out_of_the_folder_is_refused(root, capsys):
    home = root / HOME / "stage1_baseline"
    rows = pd.read_parquet(home / "samples.parquet").replace({"task": {"tiny_keys": "../../x"}})
    rows.to_parquet(home / "samples.parquet", index=False)
    facts = (home / "evaluation.json").read_text().replace("tiny_keys", "../../x")
    (home / "evaluation.json").write_text(facts)
    manifest = json.loads((home / "manifest.json").read_text())
    kept = {key: manifest[key] for key in ("mask", "eval_leaks", "circumstances")}
    outputs = [home / name for name in ("samples.parquet", "evaluation.json")]
    write_manifest(home / "manifest.json", manifest["fingerprint"], outputs, **kept)
    assert main(["export", "lm-eval", HOME, "--out", "out", "--mask", "causal"]) == 1
    assert "'../../x' has a name that no file may have" in capsys.readouterr().err
    assert not list(root.rglob("*x_2026*"))


def test_conditions_that_are_not_there_are_named(root, capsys):
    assert main(["export", "lm-eval", HOME, "--out", "out", "--mask", "windowed"]) == 1
    assert "It has: 3B under full_bidir, base under causal" in capsys.readouterr().err


def test_an_export_can_be_compared_and_leaks_are_said(exported, capsys):
    a, b = (str(exported / name) for name in ("own__base-causal", sanitized(LEAKING)))
    assert main(["compare", a, b]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "LEAKS (train eval)" in said and LEAKING in said
    (file,) = (exported / "own__base-causal").glob("samples_tiny*")
    assert {item.cluster for item in read_samples(file).items.values()} == {"c0", "c1", "c2", "c3"}


def test_an_export_pairs_with_the_file_of_the_stock_command(exported, stock, capsys):
    (a,), (b,) = ((d.glob("samples_tiny*")) for d in (exported / "own__base-causal", stock))
    assert main(["compare", str(a), str(b), "--format", "csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(",")[1:5] for row in rows[1:]] == [
        [metric, "none", "8", "4"] for metric in ("acc", "acc_norm")
    ]
    assert all(row.split(",")[7] == "0.0" for row in rows[1:])


def test_the_fields_that_name_clusters_are_those_of_the_scoring():
    assert CLUSTER_FIELDS == scoring_items.CLUSTER_FIELDS


def test_a_condition_without_the_result_of_an_audit_is_named_a_leak():
    manifest = {"mask": "full_bidir", "recipe": "3B", "seed": 1}
    assert Scored("s", Path("m"), manifest, LM_EVAL_PROTOCOL).leaks == "train eval"
    base = {"mask": "causal", "eval_leaks": False}
    assert Scored("s", Path("m"), base, LM_EVAL_PROTOCOL).leaks == "-"
