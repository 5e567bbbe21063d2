"""Promises of diff: every difference told, none invented, numbers paired item by item."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablation.analysis.statistics import paired_means
from ablation.cli.main import main
from ablation.lineage.diff import diff, print_diff
from ablation.lineage.snapshots import NothingToCompare
from ablation.provenance.files import sha256_file, write_json
from ablation.provenance.manifests import StaleInput, _own_hash
from ablation.remote.push import push
from tests.support.small_results import HOME, STUDY, make

ROOT = Path(__file__).resolve().parents[3]
KINDS = ("config", "code", "packages", "hardware", "data")


@pytest.fixture
def two(tmp_path, monkeypatch):
    """`a` and `b`: the same study, 3B having learned more in the second."""
    for name, learned in (("a", 0.7), ("b", 0.95)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make(Path("."), learned=learned)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(name):
    return f"{name}/{HOME}"


def row(found, **wanted):
    (one,) = (r for r in found["numbers"] if all(r[k] == v for k, v in wanted.items()))
    return one


def restamp(path, **changes):
    """Write a manifest with another fingerprint, sealed again."""
    manifest = json.loads(Path(path).read_text())
    manifest["fingerprint"] |= changes
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    write_json(path, body | {"sha256": _own_hash(body)})


def test_a_study_does_not_differ_from_itself(two, capsys):
    found = diff(folder("a"), folder("a"))
    assert not any(found[kind] for kind in (*KINDS, "changed"))
    assert all(r["identical"] and r["difference"] == 0 for r in found["numbers"])
    print_diff(found)
    assert "numbers: identical" in capsys.readouterr().out


def test_numbers_are_paired_over_the_same_items_and_seeds(two):
    found = diff(folder("a"), folder("b"))
    name = {"recipe": "3B", "mask": "prefill_bidir"}
    told = row(found, **name, task="macro")
    scores = []
    for task in ("a", "b"):
        right = []
        for side in "ab":
            files = [f"{folder(side)}/stage4_posteval/3B/seed{s}/prefill_bidir" for s in (1, 2)]
            frames = [pd.read_parquet(f"{file}/samples.parquet") for file in files]
            best = [f[f.task == task].loglikelihood.to_numpy().reshape(-1, 2) for f in frames]
            right.append([(b[:, 0] > b[:, 1]).astype(int) for b in best])
        scores.append(np.array(right))
    expected = paired_means(scores, 0.95).difference(1, 0)
    assert told["difference"] == pytest.approx(expected.value)
    assert (told["low"], told["high"]) == pytest.approx(tuple(expected.interval))
    assert told["low"] > 0 and told["seeds"] == [1, 2] and not told["identical"]
    assert row(found, recipe="3A", mask="causal", task="macro")["identical"]


@pytest.mark.parametrize("pushed", [False, True], ids=["folders", "archives"])
def test_judgements_of_generated_texts_are_paired_too(tmp_path, monkeypatch, capsys, pushed):
    for name, learned in (("a", 0.7), ("b", 0.95)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        make(Path("."), learned=learned, generation=True)
        if pushed:  # an archive has the judgements, and no texts
            push(str(tmp_path / f"{name}.zip"), STUDY, weights=False)
    monkeypatch.chdir(tmp_path)
    sides = ("a.zip", "b.zip") if pushed else (folder("a"), folder("b"))
    found = diff(*sides)
    wanted = {"recipe": "3B", "mask": "prefill_bidir", "task": "gsm:number"}
    found_row = row(found, **wanted)
    place = f"{HOME}/stage4_posteval/3B/seed{{}}/prefill_bidir/generated/generations.parquet"
    rights = [
        [pd.read_parquet(f"{side}/{place.format(s)}").exact_match.astype(int) for s in (1, 2)]
        for side in "ab"
    ]
    means = paired_means([np.array(rights)], 0.95)
    assert found_row["difference"] == pytest.approx(means.difference(1, 0).value)
    assert found_row["difference"] > 0 and not found_row["identical"]
    assert row(found, stage="stage1_generation", task="gsm:number")["identical"]
    assert not any(r["task"] == "macro" for r in found["numbers"] if "generation" in r["stage"])
    assert {r["task"] for r in found["numbers"]} == {"a", "b", "macro", "gsm:number"}
    print_diff(found)
    assert "gsm:number" in capsys.readouterr().out


def test_it_reads_the_same_whichever_way(two):
    there, back = (diff(*map(folder, pair)) for pair in ("ab", "ba"))
    for first, second in zip(there["numbers"], back["numbers"], strict=True):
        assert first["difference"] == pytest.approx(-second["difference"])
        assert first["low"] == pytest.approx(-second["high"])


def test_configuration_code_packages_data_and_hardware_are_told(two):
    shutil.copytree("a", "c")
    home = Path(folder("c"))
    for name in ("stage3_finetune/3A/seed1", "stage3_finetune/3A/seed2"):
        config = {"name": "3A", "recipe": {"learning_rate": 0.5}}
        restamp(home / name / "manifest.json", config=config, code="f" * 64)
    restamp(home / "base/manifest.json", packages={"torch": "9.9"})
    run = home / "stage1_baseline/run.json"
    run.write_text(run.read_text().replace('"p"', '"another"'))
    items = json.loads((home / "base/items/manifest.json").read_text())
    items["outputs"]["a.jsonl"]["sha256"] = "0" * 64
    write_json(home / "base/items/manifest.json", items)
    restamp(home / "base/items/manifest.json")
    found = diff(folder("a"), folder("c"))
    (change,) = found["config"]["recipe.learning_rate"]
    assert (change["before"], change["after"]) == (1e-3, 0.5) and len(change["results"]) == 2
    assert found["code"]["stage3_finetune"][1].endswith("f" * 64)
    assert found["packages"] == {"torch": ["2.13.0", "2.13.0, 9.9"]}
    assert found["hardware"] == {"processor": ["p", "another, p"]}
    assert list(found["data"]) == ["base/items/a.jsonl"]


def test_results_of_one_side_only_are_told(two):
    shutil.rmtree(f"{folder('b')}/stage4_posteval/3A")
    found = diff(folder("a"), folder("b"))
    assert len(found["only"][folder("a")]) == 6 and found["only"][folder("b")] == []


def test_configurations_are_compared_where_only_seeds_differ(two):
    """Of another seed's training as well, which stands under another name."""
    shutil.copytree("a", "c")
    home = Path(folder("c"))
    for seed in (1, 2):
        old = home / f"stage3_finetune/3A/seed{seed}"
        config = {"name": "3A", "seed": seed + 6, "recipe": {"learning_rate": 0.5}}
        restamp(old / "manifest.json", config=config)
        old.rename(old.with_name(f"seed{seed + 6}"))
    found = diff(folder("a"), folder("c"))["config"]
    (change,) = found["recipe.learning_rate"]
    assert (change["before"], change["after"]) == (1e-3, 0.5)


def test_other_items_are_not_paired(two, capsys):
    shutil.rmtree("b")
    shutil.copytree("a", "b")
    path = Path(folder("b")) / "stage1_baseline/samples.parquet"
    samples = pd.read_parquet(path)
    samples.loc[samples.task == "a", "doc_hash"] += "other"
    samples.to_parquet(path, index=False)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    facts = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    manifest["outputs"][path.name] = facts
    write_json(path.parent / "manifest.json", manifest)
    restamp(path.parent / "manifest.json")
    found = diff(folder("a"), folder("b"))
    told = row(found, stage="stage1_baseline", task="a")
    assert "different items" in told["unpaired"] and "low" not in told
    assert row(found, stage="stage1_baseline", task="b")["difference"] == 0
    tasks = {r["task"] for r in found["numbers"] if r["stage"] == "stage1_baseline"}
    assert tasks == {"a", "b"}  # no macro over what is not paired
    print_diff(found)
    assert "not paired" in capsys.readouterr().out


def test_pushes_are_compared_without_weights_and_by_name(two, monkeypatch):
    names = []
    for side in "ab":
        monkeypatch.chdir(two / side)
        names.append(push("../store", STUDY, weights=False).split("snapshot ")[1].split()[0])
    monkeypatch.chdir(two)
    found = diff(*(f"store@{name}" for name in names))
    expected = diff(folder("a"), folder("b"))
    assert {k: v for k, v in found.items() if k not in ("sides", "only")} == {
        k: v for k, v in expected.items() if k not in ("sides", "only")
    }
    assert not diff("store", folder("b"))["changed"]


def test_commits_are_compared_by_what_they_execute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("src/ablation", "workflow", "config", "resources/published"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("requirements.txt", "requirements-torch.txt"):
        shutil.copy(ROOT / name, tmp_path)
    git("init", "--quiet")
    commit("first")
    edit("config/default.yaml", "confidence: 0.95", "confidence: 0.9")
    edit("src/ablation/analysis/statistics.py", 'method="wilson"', 'method="exact"')
    edit(
        "src/ablation/training/finetune.py", "\nfrom __future__", "\n# a remark\n\nfrom __future__"
    )
    edit("requirements-torch.txt", "torch==", "torch==9")
    edit("resources/published/prefill.json", "{", "{ ")
    edit("src/ablation/bridge/analysis/claims.py", "p < limit and low", "p <= limit and low")
    commit("second")
    found = diff("HEAD~1", "HEAD")
    assert {key: changes[0]["after"] for key, changes in found["config"].items()} == {
        "statistics.confidence": 0.9
    }
    assert {"recovery", "bag_of_words", "flips", "bridge_tables"} <= set(found["code"])
    assert not {"stage3_finetune", "stage4_posteval", "curves"} & set(found["code"])
    assert list(found["packages"]) == ["torch"]
    assert list(found["data"]) == ["resources/published/prefill.json"]
    assert found["numbers"] == [] and not any(diff("HEAD", "HEAD")[kind] for kind in KINDS)
    make(tmp_path)
    beside = diff("HEAD", HOME)  # results know few packages and stages; the others are no change
    assert set(beside["packages"]) <= {"torch", "lm_eval"} and "samples" not in beside["code"]


def test_commits_of_a_folder_that_init_made_have_the_defaults_of_the_workflow(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    git("init", "--quiet")
    commit("first")
    edit("config/study.yaml", "seeds: [1, 2, 3]", "seeds: [7]")
    commit("second")
    assert main(["diff", "HEAD~1", "HEAD", "--configfile", "config/study.yaml", "--json", "d"]) == 0
    found = json.loads(Path("d").read_text())
    assert list(found["config"]) == ["seeds"] and not found["code"]


def git(*arguments):
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", *who, *arguments], check=True)


def commit(message):
    git("add", ".")
    git("commit", "--quiet", "-m", message)


def edit(file, old, new):
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))


def test_what_is_nothing_is_refused(two, capsys):
    with pytest.raises(NothingToCompare, match="no folder with results"):
        diff("nowhere", folder("a"))
    shutil.copytree(folder("a"), "a/results/second")
    assert main(["diff", "a/results", folder("b")]) == 2
    assert "holds 2 studies" in capsys.readouterr().err


def test_an_edited_manifest_is_refused(two):
    path = Path(folder("a")) / "base/manifest.json"
    path.write_text(path.read_text().replace('"2.13.0"', '"2.14.0"'))
    with pytest.raises(StaleInput, match="base/manifest.json has been edited"):
        diff(folder("a"), folder("b"))


def test_sample_rows_that_were_damaged_are_refused(two):
    """A manifest says what they were; the numbers are read from what they are."""
    rows = next(Path(folder("b")).rglob("samples.parquet"))
    rows.write_bytes(rows.read_bytes()[:-100])
    with pytest.raises(StaleInput, match="samples.parquet has changed"):
        diff(folder("a"), folder("b"))


def test_values_that_look_like_markup_are_shown_as_they_are(two, capsys):
    found = diff(folder("a"), folder("a"))
    change = {"before": "[/INST]", "after": "[b]", "results": ["r"]}
    print_diff(found | {"config": {"prompt": [change]}})
    assert "prompt: [/INST] -> [b]" in capsys.readouterr().out


def test_values_cannot_control_the_terminal(two, capsys):
    found = diff(folder("a"), folder("a"))
    change = {"before": "\x1b[2J", "after": "\x9b2J", "results": ["r"]}
    print_diff(found | {"config": {"prompt": [change]}})
    assert r"prompt: \x1b[2J -> \x9b2J" in capsys.readouterr().out
