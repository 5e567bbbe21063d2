"""Promises about the study of doses: each recipe has its dose, and is compared with none."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ablation.analysis.doses import DOSE_COLUMNS, dose_rows, group_of, trainings
from ablation.cli.main import main
from ablation.config.load import load_study
from ablation.provenance.files import write_json
from ablation.provenance.manifests import StaleInput, write_manifest
from ablation.provenance.tables import read_csv, write_table

STUDY = load_study({"extends": "dose.yaml"})
R = {"3B": -0.1, "3B-a1": 0.0, "3B-ab16": 0.3, "3B-seen4": 0.2, "3B-tasks": 0.8}
FINGERPRINT = {"stage": "stage3_finetune", "code": "c", "config": {}, "packages": {}}
FINGERPRINT |= {"upstream": {}, "hash": "h"}


def ratio(name, value):
    return {name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}


def recovery():
    """R of some recipes for each seed and all, and rows that are no R of an ablated training."""
    rows = []
    for recipe, r in R.items():
        for seed, task in ((s, t) for s in ("171", "172", "all") for t in ("micro_piqa", "macro")):
            row = {"study": "dose", "recipe": recipe, "mask": "prefill_bidir", "seed": seed}
            row |= {"task": task, "comparable": "true", "damage": -0.4, "gain": 0.1}
            row |= {"seeds_disagree": ""}
            row |= {"exposure": "trained" if recipe == "3B-tasks" else "held_out"}
            rows.append(row | ratio("recovered", r) | ratio("net_recovered", r + 0.05))
            rows.append(rows[-1] | {"recipe": recipe.replace("3B", "3A")})
            rows.append(rows[-2] | {"mask": "causal", "recovered": None})
    return pd.DataFrame(rows)


def contrasts():
    rows = []
    for row in recovery().to_dict("records"):
        if row["mask"] != "causal" and row["recipe"].startswith("3B-"):
            kept = {key: row[key] for key in ("study", "recipe", "mask", "seed", "task")}
            kept |= ratio("recovered_difference", row["recovered"] - R["3B"])
            rows += [kept | {"against": "3B"}, kept | {"against": "3A", "recovered_difference": 9}]
    return pd.DataFrame(rows)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The folder of a study with tables, trainings and the scores of one of them."""
    monkeypatch.chdir(tmp_path)
    home = Path("results/dose")
    for recipe in R:
        for seed, tokens in ((171, 100), (172, 200)):
            folder = home / f"stage3_finetune/{recipe}/seed{seed}"
            summary = {"train_examples": 7840, "steps": 250, "tokens": tokens}
            write_json(folder / "summary.json", summary)
            families = sorted(STUDY.recipes[recipe].records)
            facts = {"recipe": recipe, "seed": seed, "families": families}
            write_manifest(
                folder / "manifest.json", FINGERPRINT, [folder / "summary.json"], **facts
            )
    scored = home / "stage4_posteval/3B/seed171"
    write_json(scored / "evaluation.json", {})
    write_manifest(scored / "manifest.json", FINGERPRINT, [scored / "evaluation.json"])
    for name, table in (("recovery", recovery()), ("contrasts", contrasts())):
        write_table(home / f"{name}.csv", table)
    return home


def test_every_recipe_of_the_study_has_its_group():
    groups = {r: group_of(recipe.records) for r, recipe in STUDY.recipes.items() if "3B" in r}
    first, second = "first order", "second order"
    assert groups == {
        "3B": "none",
        **{f"3B-a{n}": first for n in (1, 2, 4, 8)},
        **{f"3B-b{n}": second for n in (1, 2, 4, 8)},
        "3B-ab16": "both orders",
        "3B-seen4": "seen in pretraining",
        "3B-tasks": "the tasks",
    }
    with pytest.raises(ValueError, match="no group of families has copy, micro_piqa together"):
        group_of({"copy", "micro_piqa", "open"})


def test_rows_have_the_dose_and_the_difference_from_no_dose(study):
    rows = dose_rows(recovery(), contrasts(), trainings(study))
    assert list(rows) == list(DOSE_COLUMNS)
    macro = rows[(rows.task == "macro") & (rows.seed == "all")].set_index("recipe")
    assert macro.families.to_dict() == dict(zip(R, (0, 1, 16, 4, 5), strict=True))
    assert macro.recovered.to_dict() == R
    assert macro.recovered_difference.round(9).to_dict() == pytest.approx(
        {recipe: r - R["3B"] for recipe, r in R.items()} | {"3B": float("nan")}, nan_ok=True
    )
    assert set(macro.tokens) == {150.0} and set(macro.records) == {7840}
    assert len(rows) == len(R) * 3 * 2  # neither controls nor rows under causal


def test_a_changed_summary_is_refused(study):
    summary = study / "stage3_finetune/3B-a1/seed172/summary.json"
    summary.write_text(json.dumps({"train_examples": 7840, "steps": 250, "tokens": 150}))
    with pytest.raises(StaleInput, match="summary.json"):
        trainings(study)


def test_the_command_prints_every_dose_and_writes_table_and_figure(study, capsys):
    assert main(["dose", str(study), "--write", "out"]) == 0
    printed = capsys.readouterr().out
    for recipe, r in R.items():
        (line,) = [line for line in printed.splitlines() if line.split()[:1] == [recipe]]
        assert f"{r:+.2f} [{r - 0.1:+.2f}, {r + 0.1:+.2f}]" in line
    written = read_csv("out/dose.csv", dtype={"seed": str})
    assert len(written) == len(R) * 3 * 2
    svg = Path("out/dose.svg").read_text("utf-8")
    for text in ("4 seen", "tasks", "R of micro_piqa", "net R = (P - D) / (C - D)"):
        assert text in svg
