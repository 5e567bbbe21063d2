"""Promises of the shipped micro study, on its frozen seeds, as `make study` runs it."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import OWN_RECORDS, SEEDS

from ablation.analysis.recovery_columns import COLUMNS
from tests.support.independent_recovery import differences

# the first of these tests runs the whole study, perhaps on cores that others use as well
pytestmark = [pytest.mark.study, pytest.mark.xdist_group("micro"), pytest.mark.timeout(1800)]

TASKS = [
    "micro_hellaswag",
    "micro_piqa",
    "micro_arc_easy",
    "micro_arc_challenge",
    "micro_winogrande",
]
LONG_RECIPES = ("5A",)
RECIPES = ("3A", "3B", "3B-leaky", *OWN_RECORDS, *LONG_RECIPES)


@pytest.fixture(scope="module")
def recovery(micro):
    return pd.read_csv(micro.folder / "results/recovery.csv", dtype={"seed": str})


def row(frame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, wanted
    return frame.iloc[0]


def macro(recovery, recipe, mask, seed="all"):
    return row(recovery, recipe=recipe, mask=mask, seed=seed, task="macro")


def test_the_table_has_the_promised_shape(recovery):
    assert list(recovery.columns) == COLUMNS
    assert set(recovery.recipe) == set(RECIPES)
    assert set(recovery["mask"]) == {"causal", "prefill_bidir", "full_bidir"}
    assert set(recovery.seed) == {*SEEDS, "all"}
    partial = {"macro_trained", "macro_held_out"} if OWN_RECORDS else set()
    assert set(recovery.task) == {*TASKS, "macro"} | partial
    assert (recovery.comparable == "true").all() or set(recovery.comparable) == {True}


def test_the_base_has_learned_its_tasks(recovery):
    assert macro(recovery, "3A", "causal").baseline >= 0.85


def test_on_fresh_items_no_task_can_be_solved_as_a_bag_of_words(micro):
    bags = pd.read_csv(micro.folder / "results/micro/bag_of_words.csv")
    assert set(bags.task) == set(TASKS)
    assert (bags.accuracy_high <= bags.chance + 0.10).all(), bags


def test_taking_the_mask_away_does_damage(recovery):
    damaged = macro(recovery, "3B", "prefill_bidir")
    assert damaged.damage <= -0.12 and damaged.damage_p < 0.001


@pytest.mark.parametrize("seed", SEEDS)
def test_prefix_lm_finetuning_gives_at_least_half_of_it_back(recovery, seed):
    found = macro(recovery, "3B", "prefill_bidir", seed)
    assert found.recovered_status == "estimable" and found.recovered >= 0.5


def test_causal_finetuning_gives_less_back(micro):
    contrasts = pd.read_csv(micro.folder / "results/micro/contrasts.csv", dtype={"seed": str})
    found = row(
        contrasts, recipe="3B", against="3A", mask="prefill_bidir", seed="all", task="macro"
    )
    assert found.recovered_difference_low > 0


@pytest.mark.skipif(not OWN_RECORDS, reason="make test-study trains these recipes")
def test_what_comes_back_comes_back_where_the_records_have_the_family(recovery):
    for recipe in OWN_RECORDS:
        trained, held_out = (
            macro(recovery, recipe, "prefill_bidir").recovered
            if recipe == "3B-open"
            else row(
                recovery,
                recipe=recipe,
                mask="prefill_bidir",
                seed="all",
                task=f"macro_{part}",
            ).recovered
            for part in ("trained", "held_out")
        )
        assert held_out < 0.4 and (recipe == "3B-open" or trained > held_out + 0.3)


def test_net_recovery_is_against_the_control_of_equal_training(micro, recovery):
    for recipe in RECIPES:
        found = macro(recovery, recipe, "prefill_bidir")
        if recipe in ("3B", "3B-leaky"):
            assert found.control == "3A" and found.net_recovered_status == "estimable"
            without, under = (macro(recovery, "3A", m).after for m in ("causal", "prefill_bidir"))
            assert (found.control_causal, found.control_ablated) == (without, under)
            net = (found.after - under) / (without - under)
            assert found.net_recovered == pytest.approx(net, abs=1e-8)
        else:
            assert found.net_recovered_status == "no_control" and pd.isna(found.control)


def test_an_independent_script_finds_the_same_numbers_in_the_sample_rows(micro, tmp_path):
    results = micro.folder / "results/micro"
    count, found = differences(results)
    assert count > 400 and found == []
    copied = tmp_path / "micro"
    shutil.copytree(results, copied)
    table = pd.read_csv(copied / "recovery.csv", dtype={"seed": str})
    (last,) = table.index[table.net_recovered.notna()][-1:]
    table.loc[last, "net_recovered"] += 2e-9
    table.to_csv(copied / "recovery.csv", index=False)
    assert len(differences(copied)[1]) == 1


def test_the_leak_is_shown_and_labelled(recovery):
    leaky = recovery["mask"] == "full_bidir"
    assert recovery[leaky].eval_leaks.all() and not recovery[~leaky].eval_leaks.any()
    trained = recovery.recipe == "3B-leaky"
    assert recovery[trained].train_leaks.all() and not recovery[~trained].train_leaks.any()


def test_training_on_leaked_targets_is_degenerate(micro):
    for seed in SEEDS:
        folder = micro.folder / f"results/micro/stage3_finetune/3B-leaky/seed{seed}"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["probe_loss_train_mask"] < 0.5 * summary["probe_loss_causal"]


def test_long_runs_end_as_their_recipe_says(micro):
    for seed in SEEDS:
        folder = micro.folder / f"results/micro/stage5_longrun/5A/seed{seed}"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["stop_reason"] in ("plateau", "max_steps") and 20 < summary["steps"] <= 60


def test_whether_longer_training_helps_is_told_under_each_mask(micro):
    contrasts = pd.read_csv(micro.folder / "results/micro/contrasts.csv", dtype={"seed": str})
    for recipe in LONG_RECIPES:
        for mask in ("prefill_bidir", "full_bidir"):
            found = row(contrasts, recipe=recipe, against="3B", mask=mask, seed="all", task="macro")
            assert found.recovered_status == "estimable"
            assert found.recovered_difference_low < found.recovered_difference_high


def test_states_go_with_success(micro):
    assert not list(micro.folder.glob("state/micro/*"))


def accuracies_by_hand(file):
    """{task: accuracy} of a samples.parquet, without a line of the package."""
    items, right = {}, {}
    for choice in pd.read_parquet(file).sort_values("choice").to_dict("records"):
        items.setdefault((choice["task"], choice["doc_hash"]), []).append(choice)
    for (task, _), choices in items.items():
        best = max(choices, key=lambda choice: choice["loglikelihood"])  # of equals the first
        right.setdefault(task, []).append(best["choice"] == best["gold"])
    return {task: sum(hits) / len(hits) for task, hits in right.items()}


def with_macro(accuracies):
    assert set(accuracies) == set(TASKS)
    return accuracies | {"macro": sum(accuracies.values()) / len(accuracies)}


def test_every_number_is_backed_by_sample_rows(micro, recovery):
    results = micro.folder / "results/micro"
    per_task = pd.read_csv(results / "per_task.csv", dtype={"seed": str}).fillna({"seed": "-"})
    per_task = per_task.fillna({"recipe": "base"}).set_index(["recipe", "seed", "mask", "task"])
    found = {}
    for file in results.glob("stage[1245]*/**/samples.parquet"):
        accuracies = with_macro(accuracies_by_hand(file))
        metrics = json.loads((file.parent / "metrics.json").read_text())
        written = {task: of_task["acc"] for task, of_task in metrics["tasks"].items()}
        assert written == pytest.approx(accuracies, abs=1e-12)
        manifest = json.loads((file.parent / "manifest.json").read_text())
        recipe, seed = manifest.get("recipe") or "base", str(manifest.get("seed") or "-")
        for task, accuracy in accuracies.items():
            row = per_task.loc[recipe, seed, metrics["mask"], task]
            assert (row.accuracy, row.acc) == pytest.approx((accuracy, accuracy), abs=1e-8)
            found[recipe, seed, metrics["mask"], task] = accuracy
    assert len(found) == len(per_task) == (3 + len(RECIPES) * len(SEEDS) * 3) * (len(TASKS) + 1)

    for row in recovery[~recovery.task.str.startswith("macro_")].to_dict("records"):
        mask, task = row["mask"], row["task"]
        seeds = SEEDS if row["seed"] == "all" else [row["seed"]]
        b, a = found["base", "-", "causal", task], found["base", "-", mask, task]
        p = sum(found[row["recipe"], seed, mask, task] for seed in seeds) / len(seeds)
        expected = {"baseline": b, "after": p, "retention": p / b, "recovery_ratio": p / b}
        if mask == "causal":
            expected |= {"side_effect": p - b}
        else:
            expected |= {"ablated": a, "damage": a - b, "gain": p - a}
            if row["recovered_status"] == "estimable":
                expected |= {"recovered": (p - a) / (b - a)}
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-8)


def test_samples_name_a_seed_as_every_other_table_does(micro):
    samples = pd.read_csv(micro.folder / "results/micro/samples.csv", dtype=str)
    assert set(samples.seed[samples.model == "base"].isna()) == {True}
    assert set(samples.seed[samples.model != "base"]) == {"31"}


def test_the_same_bytes_made_again_move_nothing_above_them(micro):
    """That a training gives the same bytes again: test_provenance_study.py."""
    folder = micro.folder / "results/micro/base/items"
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.json"]
    before = {p: p.read_bytes() for p in files}
    manifest = "results/micro/base/items/manifest.json"
    micro.run("--force", "--allowed-rules", "base_items", "--", manifest)
    assert {p: p.read_bytes() for p in before} == before
    assert micro.stale("results/micro/recovery.csv") == set()


def test_flips_add_up_to_the_recovery_table(micro, recovery):
    flips = pd.read_csv(micro.folder / "results/micro/flips.csv", dtype={"seed": str})
    keys = ["recipe", "seed", "mask", "task"]
    for place, column in enumerate(("baseline", "ablated", "after")):
        right = flips[flips.pattern.str[place] == "R"].groupby(keys).share.sum()
        expected = recovery.set_index(keys)[column].reindex(right.index)
        assert abs(right - expected).max() < 1e-6


def test_a_second_make_study_has_nothing_to_do(micro):
    done = micro.make("study")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr
    assert micro.seconds < 20


@pytest.mark.parametrize("figure", ["accuracy", "recovery", "curves", "flips", "masks"])
def test_figures_are_drawn_in_every_form(micro, figure):
    for form, start in (("svg", b"<svg"), ("png", b"\x89PNG"), ("html", b"<!DOCTYPE html>")):
        content = (micro.folder / f"results/micro/figures/{figure}.{form}").read_bytes()
        assert content[:200].lstrip().lower().startswith(start.lower())


def test_the_table_prints_readably(micro):
    done = subprocess.run(
        [sys.executable, "-m", "ablation", "table", str(micro.folder / "results/recovery.csv")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "3B-leaky" in done.stdout and "prefill_bidir" in done.stdout


def test_make_study_ends_with_a_verified_and_unsigned_study(micro):
    said = micro.said["stdout"].splitlines()
    (place,) = [number for number, line in enumerate(said) if line.startswith("results/micro: ")]
    assert said[place].endswith(": as they were made") and said[place + 1].startswith("unsigned")
    finding = " ".join(line.strip("│ ") for line in said[place + 2 :])
    assert "Under the mask prefill_bidir the base falls from" in finding and "net R =" in finding


def test_stderr_is_free_of_warnings(micro):
    lines = micro.said["stderr"].splitlines()
    assert not [line for line in lines if "warn" in line.lower()]


def test_published_numbers_stand_beside_ours_and_each_row_says_whose_it_is(micro, recovery):
    table = pd.read_csv(micro.folder / "results/micro/published.csv", dtype={"seed": str})
    assert set(COLUMNS) < set(table.columns)
    theirs, ours = (table[table.source == source] for source in ("published", "ours"))
    assert set(theirs.model) & set(ours.model) == set() and set(ours.study) == {"micro"}
    assert ours.note.str.contains("not comparable").all()
    expected = recovery[recovery.seed == "all"][COLUMNS].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours[COLUMNS].reset_index(drop=True), expected, check_dtype=False)
