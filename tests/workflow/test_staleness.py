"""Promise: exactly the stages that a change can move run again, nothing else."""

import json
import os
import shutil
import time
from contextlib import ExitStack, contextmanager

import pytest
import yaml
from conftest import OWN_RECORDS, SEEDS, Checkout, copy_of_the_repository, one_seed, shorten_stage_5

from ablation.provenance.tables import read_csv

# the first of these tests runs the whole study, perhaps on cores that others use as well
pytestmark = [pytest.mark.study, pytest.mark.timeout(1800)]

TABLES = {"recovery", "recovery_named"}
FIGURES = {f"figure_{name}" for name in ("accuracy", "recovery", "curves", "flips", "masks")}
SHORT, LONG = ("3A", "3B", "3B-leaky", *OWN_RECORDS), ("5A",)
TRAINED = {f"stage3_finetune:{r}" for r in SHORT} | {f"stage5_longrun:{r}" for r in LONG}
SCORED = {f"stage4_posteval:{r}" for r in SHORT} | {f"stage5_posteval:{r}" for r in LONG}
SCORED |= {"stage4_metrics", "stage5_metrics"}  # computed from what was scored
BASE_SCORED = {"stage1_baseline", "stage2_ablation", "stage1_metrics", "stage2_metrics"}


@contextmanager
def edited(file, *replacements):
    """The file with text replaced, as long as the block runs; its time afterwards as before."""
    before, times = file.read_text(), file.stat()
    after = before
    for old, new in replacements:
        assert old in after, f"{file} does not hold {old!r}"
        after = after.replace(old, new)
    file.write_text(after)
    try:
        yield
    finally:
        file.write_text(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_nothing_changed(micro):
    assert micro.stale("all") == set()


def test_dry_runs_are_quick_and_small(micro):
    """By processor time: the clock also counts what else runs on the machine."""
    done = micro.python("benchmarks/dry_run.py", "--recipes", "500")
    measured = json.loads(done.stdout)
    assert measured["no_op"]["jobs"] == 0 and measured["no_op"]["cpu_seconds"] < 4
    (sweep,) = measured["sweeps"]
    assert sweep["jobs"] > 1000 and sweep["cpu_seconds"] < 20 and sweep["peak_mb"] < 1000


def test_touched_files_and_comments_in_modules(micro):
    for name in (
        "src/ablation/scoring/evaluate.py",
        "src/ablation/model/masks.py",
        "workflow/scripts/evaluate.py",
        "Snakefile",
    ):
        os.utime(micro.folder / name, (time.time() + 60,) * 2)
    with ExitStack() as edits:
        for name in ("model/masks", "training/finetune", "analysis/statistics"):
            file = micro.folder / f"src/ablation/{name}.py"
            comment = ("\nfrom __future__", "\n# a remark\n\nfrom __future__")
            edits.enter_context(edited(file, comment))
        assert micro.stale("all") == set()


def test_a_real_change_in_a_module_used_only_by_figures(micro):
    with edited(micro.folder / "src/ablation/report/figures.py", ("size=30", "size=40")):
        assert micro.stale() == set()
        assert micro.stale("all") == {"all"} | FIGURES


def test_a_real_change_in_the_statistics(micro):
    file = micro.folder / "src/ablation/analysis/statistics.py"
    with edited(file, ('method="wilson"', 'method="exact"')):
        assert micro.stale() == TABLES
        assert micro.stale("all") == (
            TABLES
            | {"all", "bag_of_words", "published", "flips"}
            | {"figure_accuracy", "figure_recovery", "figure_flips", "pages", "runs"}
        )


def test_a_real_change_in_one_figures_table(micro):
    with edited(micro.folder / "src/ablation/analysis/curves.py", ('"resumed"', '"resumed again"')):
        assert micro.stale("all") == {"all", "curves", "figure_curves", "pages", "runs"}


def test_a_real_change_in_training_reaches_every_recipe_and_no_baseline(micro):
    with edited(
        micro.folder / "src/ablation/training/finetune.py",
        ("PROBE_EXAMPLES = 64", "PROBE_EXAMPLES = 8"),
    ):
        assert micro.stale() == TRAINED | SCORED | TABLES


def test_one_recipes_learning_rate(micro):
    changed = ("3A: {train_mask: causal}", "3A: {train_mask: causal, learning_rate: 0.123}")
    with edited(micro.folder / "config/default.yaml", changed):
        assert (
            micro.stale()
            == {
                "stage3_finetune:3A",
                "stage4_posteval:3A",
                "stage4_metrics",
            }
            | TABLES
        )


def test_when_a_long_run_stops_concerns_that_run_alone(micro):
    changed = ("patience: 4", "patience: 3")
    with edited(micro.folder / "config/default.yaml", changed):
        assert (
            micro.stale()
            == {
                "stage5_longrun:5A",
                "stage5_posteval:5A",
                "stage5_metrics",
            }
            | TABLES
        )


# What is made from trainings, and says so if their code was accepted by a reason alone.
MARKED = TABLES | {"all", "flips", "curves", "published", "pages", "runs"}
MARKED |= FIGURES - {"figure_masks"}


def test_an_accepted_refactoring_runs_no_model_again(micro):
    file, table = micro.folder / "src/ablation/training/finetune.py", "results/micro/curves.csv"
    stages, before = ("stage3_finetune", "stage5_longrun"), (micro.folder / table).read_bytes()
    curves = ("--force", "--allowed-rules", "curves", "--", table)
    with edited(file, ("smaller = _smaller(", "smaller = 1 * _smaller(")):
        assert micro.stale() == TRAINED | SCORED | TABLES
        try:
            study = ("--results", "results/micro")
            done = micro.ablation("accept", *stages, *study, "--why", "once is the same")
            assert f"{len(SHORT) * len(SEEDS)} results stay valid" in done.stdout
            assert f"  {len(LONG) * len(SEEDS)} results stay valid" in done.stdout
            assert micro.stale("all") == MARKED
            # what reads a manifest agrees with what decided to run
            micro.run(*curves)
            assert set(read_csv(micro.folder / table).unchecked) == {" ".join(stages)}
        finally:
            (micro.folder / "accepted.json").unlink(missing_ok=True)
    micro.run(*curves)
    assert (micro.folder / table).read_bytes() == before
    assert micro.stale("all") == set()


def test_a_table_of_accepted_code_is_marked_until_the_code_has_made_the_results_again(micro):
    file, table = micro.folder / "src/ablation/analysis/recovery.py", "results/micro/published.csv"
    before, study = (micro.folder / table).read_bytes(), ("--results", "results/micro")
    with edited(file, ("return rows, contrasts", "return 1 * rows, contrasts")):
        try:
            done = micro.ablation("accept", "recovery", *study, "--why", "once is the same")
            assert "unchecked" in done.stdout
            micro.ablation("accept", "published", *study, "--why", "once is the same")
            micro.run(table)
            assert set(read_csv(micro.folder / table).unchecked) == {"recovery"}
            micro.ablation("accept", "recovery", *study, "--reproduce")
            micro.run(table)
            assert (micro.folder / table).read_bytes() == before
        finally:
            (micro.folder / "accepted.json").unlink(missing_ok=True)
    micro.run("all")
    assert micro.stale("all") == set()


def test_a_refactoring_is_checked_by_making_its_results_again(micro):
    curves, accepted = micro.folder / "src/ablation/analysis/curves.py", "accepted.json"
    accept = ("accept", "curves", "--why", "once is the same", "--reproduce")
    try:
        with edited(curves, ("pd.DataFrame(rows)", "pd.DataFrame(2 * rows)")):
            done = micro.ablation(*accept, check=False)
            assert done.returncode == 1 and "curves.csv: different" in done.stderr
            assert not (micro.folder / accepted).exists()
        with edited(curves, ("pd.DataFrame(rows)", "pd.DataFrame(1 * rows)")):
            assert "checked: 1 files of 1 results" in micro.ablation(*accept).stdout
            assert micro.stale("all") == set()
            assert "unchecked" not in micro.ablation("verify").stdout
    finally:
        (micro.folder / accepted).unlink(missing_ok=True)


def test_other_items_leave_the_checkpoints(micro):
    with edited(micro.folder / "config/default.yaml", ("items: {seed: 4104", "items: {seed: 5")):
        assert micro.stale() == SCORED | TABLES | BASE_SCORED | {"base_items"}


def test_other_finetuning_data_leave_the_base_scores(micro):
    with edited(micro.folder / "config/default.yaml", ("count: 8000", "count: 8001")):
        written = {"base_instructions"} | ({"recipe_instructions"} if OWN_RECORDS else set())
        assert micro.stale() == TRAINED | SCORED | TABLES | written


def test_how_a_base_would_be_pretrained_says_nothing_about_the_shipped_one(micro):
    with edited(micro.folder / "config/default.yaml", ("max_steps: 4200", "max_steps: 4300")):
        assert micro.stale("all") == set()


def test_task_files(micro):
    tasks = micro.folder / "config/tasks"
    with edited(tasks / "utils.py", ("\nfrom pathlib", "\n# a remark\nfrom pathlib")):
        assert micro.stale() == set()
    with edited(tasks / "micro_piqa.yaml", ("version: 1.0", "version: 1.1")):
        assert micro.stale() == SCORED | TABLES | BASE_SCORED


def test_a_reordered_config(micro):
    file = micro.folder / "config/default.yaml"
    before = file.read_text()

    def backwards(value):
        if isinstance(value, dict):
            return {k: backwards(value[k]) for k in reversed(value)}
        return value

    file.write_text(yaml.safe_dump(backwards(yaml.safe_load(before)), sort_keys=False))
    try:
        assert micro.stale("all") == set()
    finally:
        file.write_text(before)


def test_a_key_that_only_tables_use(micro):
    with edited(micro.folder / "config/default.yaml", ("confidence: 0.95", "confidence: 0.9")):
        assert micro.stale() == TABLES


def clone_with_results(micro, folder):
    """A fresh clone (every file is new) into which results and their metadata were copied."""
    clone = Checkout(copy_of_the_repository(folder), preloaded=True)
    shorten_stage_5(clone.folder)
    if len(SEEDS) == 1:
        one_seed(clone.folder)
    for file in clone.folder.rglob("*"):
        os.utime(file)
    shutil.copytree(micro.folder / "results", clone.folder / "results", dirs_exist_ok=True)
    shutil.copytree(micro.folder / ".snakemake/metadata", clone.folder / ".snakemake/metadata")
    return clone


def test_a_fresh_clone_with_results_copied_in(micro, tmp_path):
    assert clone_with_results(micro, tmp_path / "clone").stale("all") == set()


def _installed(folder, package, version):
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return str(folder)


def test_a_development_package_bumped(micro, tmp_path):
    for package in ("ruff", "pytest", "rich"):
        path = _installed(tmp_path, package, "99.0")
    assert micro.stale("all", path=path) == set()


def test_a_package_that_shapes_tables_bumped(micro, tmp_path):
    assert micro.stale(path=_installed(tmp_path, "scipy", "99.0")) == TABLES


def test_touched_outputs_after_an_edit_are_not_believed(micro, tmp_path):
    """`--touch` marks stale bytes as new; the fingerprint in the manifest still tells."""
    clone = clone_with_results(micro, tmp_path / "clone")
    changed = ("3A: {train_mask: causal}", "3A: {train_mask: causal, learning_rate: 0.123}")
    with edited(clone.folder / "config/default.yaml", changed):
        clone.snakemake("--cores", "1", "--touch", "all")
        done = clone.snakemake("--cores", "1", "--force", "results/micro/recovery.csv", check=False)
    assert done.returncode != 0
    assert "was made by another configuration or code" in done.stdout + done.stderr
