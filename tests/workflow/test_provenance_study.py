"""Promises about a finished study: made again it is the same, elsewhere it is taken as made."""

import json
import shutil
import subprocess

import pytest
from conftest import SEEDS, Checkout, copy_of_the_repository, one_seed, shorten_stage_5
from test_staleness import BASE_SCORED, LONG, SCORED, SHORT, TABLES, edited

# the first of these tests runs the whole study, perhaps on cores that others use as well
pytestmark = [pytest.mark.study, pytest.mark.timeout(1800)]


def times(folder):
    """Which files there are, when they were written, and where their bytes stand."""
    files = (p for name in ("results", ".snakemake/metadata") for p in (folder / name).rglob("*"))
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files if p.is_file()}


@pytest.fixture(scope="module")
def store(micro, tmp_path_factory):
    uri = tmp_path_factory.mktemp("store") / "pushed"
    micro.ablation("push", str(uri))
    return uri


def study_checkout(folder):
    """A fresh clone with the configuration of the study."""
    made = Checkout(copy_of_the_repository(folder), preloaded=True)
    shorten_stage_5(made.folder)
    if len(SEEDS) == 1:
        one_seed(made.folder)
    return made


@pytest.fixture
def clone(store, tmp_path):
    """A fresh clone into which the study was pulled."""
    made = study_checkout(tmp_path / "clone")
    made.ablation("pull", str(store))
    return made


MADE_AGAIN = [
    ("base", ""),
    ("stage1", ""),
    ("stage5", "5A/seed31/manifest.json"),  # a short training; its scoring is stage 4's
    ("recovery", ""),
    ("figures", "mask curves"),
]
if len(SEEDS) > 1:  # trainings of all their steps, and more scoring
    MADE_AGAIN += [("stage2", ""), ("stage3", "3B/seed31"), ("stage4", "3B/seed31")]


@pytest.mark.parametrize("stage, parts", MADE_AGAIN)
def test_each_stage_made_again_is_identical_and_touches_nothing(micro, stage, parts):
    before = times(micro.folder)
    done = micro.ablation("reproduce", stage, *(["--only", *parts.split()] if parts else []))
    assert f"{stage}: identical" in done.stdout
    assert times(micro.folder) == before


def test_a_result_that_cannot_be_made_again_is_found(clone):
    """Sealed and consistent, and yet not what the code makes."""
    code = (
        "import json\n"
        "from ablation.provenance.files import file_table, write_json, write_text\n"
        "from ablation.provenance.manifests import _own_hash\n"
        "head, first, rest = open('curves.csv').read().split('\\n', 2)\n"
        "row = dict(zip(head.split(','), first.split(',')))\n"
        "row['loss'] = float(row['loss']) + .25\n"
        "write_text('curves.csv', '\\n'.join([head, ','.join(map(str, row.values())), rest]))\n"
        "manifest = json.load(open('curves.manifest.json'))\n"
        "manifest['outputs'] |= file_table(['curves.csv'])\n"
        "body = {k: v for k, v in manifest.items() if k != 'sha256'}\n"
        "write_json('curves.manifest.json', body | {'sha256': _own_hash(body)})\n"
    )
    clone.python("-c", f"import os; os.chdir('results/micro')\n{code}")
    curves = ("reproduce", "figures", "--only", "micro/curves")
    done = clone.ablation(*curves, check=False)
    assert done.returncode == 1 and "figures: different (0 of 1" in done.stdout
    assert "by up to 0.25, at " in done.stdout and "loss" in done.stdout
    done = clone.ablation(*curves, "--tolerance", "0.3")
    assert "figures: within tolerance" in done.stdout


def test_upstream_damage_stops_a_reproduction(clone):
    weights = clone.folder / "results/micro/stage3_finetune/3A/seed31/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    done = clone.ablation("reproduce", "stage4", "--only", "3A/seed31", check=False)
    assert done.returncode == 2 and "model.safetensors has changed" in done.stderr


def test_after_a_pull_nothing_is_to_be_done(clone):
    assert clone.stale() == clone.stale("all") == set()


def test_after_a_pull_another_evaluation_needs_no_training(clone):
    file = clone.folder / "config/default.yaml"
    with edited(file, ("limit: null", "limit: 4")):
        assert clone.stale() == SCORED | TABLES | BASE_SCORED
        target = "results/micro/stage4_posteval/3B/seed31/causal/manifest.json"
        clone.run("--allowed-rules", "stage4_posteval", "--", target)


def test_without_weights_tables_live_on_and_a_need_for_them_is_told(clone, store):
    shutil.rmtree(clone.folder / "results")
    shutil.rmtree(clone.folder / ".snakemake")
    said = clone.ablation("pull", str(store), "--no-weights").stdout
    assert f"weights are not here: {len([*SHORT, *LONG]) * len(SEEDS)} files" in said
    assert clone.stale("all") == set()
    target = "results/micro/stage4_posteval/3B/seed31/causal/manifest.json"
    # the rest of the checkpoint came along, so no training is planned: the need is told by the job
    assert clone.stale(target, options=("--force",)) == {"stage4_posteval:3B"}
    options = ("--cores", "1", "--force", "--allowed-rules", "stage4_posteval", "--", target)
    done = clone.snakemake(*options, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "stage3_finetune/3B/seed31/model" in said


def test_an_unfinished_study_goes_on_elsewhere_without_checkpoints(micro, tmp_path):
    """As in docs/performance.md: a checkpoint is trained again only if it is not scored yet."""
    here, elsewhere = study_checkout(tmp_path / "here"), study_checkout(tmp_path / "elsewhere")
    for name in ("results", ".snakemake/metadata"):
        shutil.copytree(micro.folder / name, here.folder / name, dirs_exist_ok=True)
    home = here.folder / "results/micro"
    for scored in (home / "stage5_longrun/5A/seed31").glob("*/"):
        shutil.rmtree(scored) if scored.name != "model" else None
    for table in (p for p in (*home.iterdir(), home.parent / "recovery.csv") if p.is_file()):
        table.unlink()  # with its manifest
    base = "resources/micro/base/model.safetensors"
    shutil.copy2(micro.folder / base, elsewhere.folder / base)  # with its time
    piece = tmp_path / "piece.tgz"
    command = ("tar", "czf", piece, "--exclude", "model", "results", ".snakemake/metadata")
    subprocess.run(command, cwd=here.folder, check=True)
    subprocess.run(("tar", "xzf", piece), cwd=elsewhere.folder, check=True)
    missing = {"stage5_longrun:5A", "stage5_posteval:5A", "stage5_metrics"} | TABLES
    # as if the base were so large that Snakemake compared its time instead of its content
    large = ("--max-checksum-file-size", str((elsewhere.folder / base).stat().st_size - 1))
    assert elsewhere.stale(options=large) == elsewhere.stale() == missing
    elsewhere.run("--", "results/recovery.csv")
    table = "results/micro/recovery.csv"
    assert (elsewhere.folder / table).read_bytes() == (micro.folder / table).read_bytes()
    # texts need weights: absent ones are trained again, and then scored
    trained = {recipe for recipe in [*SHORT, *LONG] if recipe != "5A"}  # 5A is there now
    found = elsewhere.stale("results/micro/samples.csv")
    assert "samples" in found and {f.split(":")[1] for f in found if ":" in f} == trained


def test_a_pulled_study_does_not_differ(micro, clone, store):
    done = micro.ablation("diff", "results/micro", str(store), "--json", "-")
    found = json.loads(done.stdout)
    assert found["compared"] > 40 and not found["changed"]
    assert all(row["identical"] for row in found["numbers"])


@pytest.mark.parametrize("recipe", [*SHORT, *LONG])
def test_a_cell_leads_to_every_machine_and_checkpoint(micro, recipe):
    where = (f"recipe={recipe}", "seed=all", "mask=prefill_bidir", "task=macro")
    options = ("--where", *where, "--column", "recovered", "--json", "-")
    found = json.loads(micro.ablation("trace", "results/recovery.csv", *options).stdout)
    trained = [n for n in found["manifests"].values() if "train_leaks" in n and "mask" not in n]
    assert len(trained) == len(SEEDS) == len(found["conditions"]["after"])
    assert found["totals"]["machines"] and found["totals"]["seconds"] > 0


def test_a_text_leads_to_the_checkpoint_that_said_it(micro):
    where = ("model=3B", "seed=31", "mask=causal", "answer=pink")
    options = ("--where", *where, "--column", "text", "--json", "-")
    found = json.loads(micro.ablation("trace", "results/micro/samples.csv", *options).stdout)
    (trained,) = (n for n in found["manifests"].values() if n["stage"] == "stage3_finetune")
    assert (trained["recipe"], trained["seed"]) == ("3B", 31)


def test_every_job_leaves_a_manifest_and_a_run_record(micro):
    home = micro.folder / "results/micro"
    manifests = {p.as_posix().removesuffix("manifest.json") for p in home.rglob("*manifest.json")}
    runs = {p.as_posix().removesuffix("run.json") for p in home.rglob("*run.json")}
    assert manifests == runs and len(runs) > 40
    outputs = {
        (p.parent / name).resolve()
        for p in home.rglob("*manifest.json")
        for name in json.loads(p.read_text())["outputs"]
    }
    files = {p for p in home.resolve().rglob("*") if p.is_file() and not p.name.startswith(".")}
    records = {p for p in files if p.name.endswith(("manifest.json", "run.json"))}
    told = {home.resolve() / "report" / f"{page}.html" for page in ("costs", "environment")}
    assert files - records - told <= outputs  # these pages show the run records: nobody's input
