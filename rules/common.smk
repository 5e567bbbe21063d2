# What every stage shares: the study, its paths, and the stamps that decide what is stale.
#
# A stamp is all that can change a stage's result (code, config slice, package versions, upstream
# stamps) as canonical JSON in `params:`, so that Snakemake reruns exactly what a change touches.
# No torch here: this file is read again by every job.
import os
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from ablation import provenance
from ablation.accepted import script_of
from ablation.config import load_study
from ablation.faults import unpinned
from ablation.names import ABLATED_MASKS, MASKS
from ablation.recipes import is_long
from ablation.tasks import data_files, task_hashes

ROOT = Path(workflow.current_basedir).parent
if not ROOT.samefile("."):  # manifests name resources and results by paths relative to each other
    raise WorkflowError(
        f"{Path.cwd()} is no place for results of the workflow in {ROOT}: call Snakemake in that "
        "folder, without --directory. Studies keep apart by their `study:`; for results elsewhere "
        "clone the repository there."
    )
if workflow.storage_settings.default_storage_provider:  # and stamps name manifests by these paths
    raise WorkflowError(
        "This study's manifests name each other by paths in this folder: leave out "
        "--default-storage-provider. `ablation push s3://...` carries results to a bucket, "
        "--vast-state-uri the states of trainings (docs/vast.md)."
    )
STUDY_FILES = (ROOT / "config", workflow.overwrite_configfiles)
STUDY = load_study(config, *STUDY_FILES, pinned=False)
if workflow.overwrite_configfiles and "study" not in config:
    logger.warning(
        f"{', '.join(map(str, workflow.overwrite_configfiles))} names no `study:`: what it makes "
        f"takes the place of the results of {STUDY.study}, results/{STUDY.study}/."
    )
if unpinned(STUDY):
    logger.warning(
        f"{len(unpinned(STUDY))} hub repositories have no commit yet (pins:): this shows what would "
        "run; a real run starts once `ablation pin FILE` has asked the hub for them."
    )
config["keep_states"] = STUDY.keep_states  # for scripts: it changes no result, so no `params:`
RESULTS = f"results/{STUDY.study}"
LOGS = f"logs/{STUDY.study}"
RECORDS = f"{RESULTS}/bridge" if STUDY.bridge else RESULTS  # of the study that is reported
RECIPES = list(STUDY.recipes)
LONG = [recipe for recipe in RECIPES if is_long(recipe)]  # stage 5
SHORT = [recipe for recipe in RECIPES if not is_long(recipe)]  # stage 3
# Finetuning takes all GPUs that a job may have; scoring one.
SCORING_HARDWARE = STUDY.hardware.model_copy(update={"gpu": min(STUDY.hardware.gpu, 1)})

MODEL_PACKAGES = ("safetensors", "tokenizers", "torch", "transformers")
SCORING_PACKAGES = (*MODEL_PACKAGES, "datasets", "lm_eval")
TRAINING_PACKAGES = (*MODEL_PACKAGES, "accelerate")
TABLE_PACKAGES = ("numpy", "pandas", "scipy")


# Jobs run side by side and tell their own progress in whole lines: bars of the libraries below them
# would only overwrite each other. Set in the environment, because jobs are processes of their own.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


onstart:  # of a real run, not of -n
    load_study(config, *STUDY_FILES)  # with every pin


wildcard_constraints:
    recipe="|".join(RECIPES),
    seed="|".join(map(str, STUDY.seeds)),
    mask="|".join(MASKS),
    task="|".join(STUDY.evaluation.tasks),


def make_stamp(stage, slice, packages, upstream=None):
    """All that can change the results of `stage`; `upstream` maps manifest paths to stamps."""
    return provenance.stamp(stage, ROOT / script_of(stage), slice, packages, upstream)


@cache
def scoring_parts():
    """What every scoring job sees; task files are hashed once."""
    return {
        "evaluation": STUDY.evaluation.model_dump(exclude={"metric"}),
        "hardware": SCORING_HARDWARE.computing(),
        "task_files": task_hashes(ROOT / "config", STUDY.evaluation.tasks),
    }


def scoring_slice(masks):
    """The part of the configuration that a scoring job can see."""
    return {**scoring_parts(), "masks": list(masks)}


def scored(folder, *names):
    """The files of one scored checkpoint and mask (all of them, or those named)."""
    return [
        f"{folder}/{n}"
        for n in names or ("metrics.json", "samples.parquet", "manifest.json", "run.json")
    ]


# The report's menus: in alphabetical order, hence the numbers.
TITLES = {
    "recovery": ("1 Findings", "1.1 What came back"),
    "published": ("1 Findings", "1.2 Published beside ours"),
    "contrasts": ("1 Findings", "1.3 Recipe against recipe"),
    "accuracy": ("1 Findings", "1.4 Accuracy"),
    "flips": ("1 Findings", "1.5 What became of each item"),
    "bag_of_words": ("1 Findings", "1.6 Tasks without word order"),
    "trainings": ("3 Models", "3.1 How finetunings ended"),
    "samples": ("3 Models", "3.2 What the models say"),
    "costs": ("4 Records", "4.1 Time, energy, money"),
    "environment": ("4 Records", "4.2 Environment and hashes"),
}


def page(name):
    """A page of the report, captioned as the table that it shows."""
    category, title = TITLES[name]
    return report(
        f"{RESULTS if name in PAGES else RECORDS}/report/{name}.html",
        caption=f"../workflow/report/table_{PAGES.get(name, name)}.rst",
        category=category,
        labels={"page": title},
    )
