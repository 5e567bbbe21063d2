# Names that all rule files use: the study (STUDY), the paths of its files (PATHS) and the
# fingerprints of its stages (FINGERPRINTS). They are computed in src/ablation/workflow.
# Needs the configuration; makes no file.
#
# A fingerprint is everything that can change a stage's result. It is in `params:` as canonical
# JSON, so Snakemake reruns exactly the jobs that a change affects. This file does not import torch,
# because every job reads it again.
from snakemake.logging import logger

from ablation.vocabulary.catalogue import FIGURES, FINDINGS, FIRST, RECORD_PAGES, TABLES
from ablation.vocabulary.interventions import LIFTED
from ablation.vocabulary.masks import ABLATED_MASKS, MASKS
from ablation.vocabulary.recipes import stage_of
from ablation.workflow.load import start

LOADED = start(
    config,
    workflow.current_basedir,
    workflow.overwrite_configfiles,
    workflow,
)
STUDY, PATHS, FINGERPRINTS = LOADED.study, LOADED.paths, LOADED.fingerprints
RESULTS, LOGS = PATHS.results, PATHS.logs
for warning in LOADED.warnings:
    logger.warning(warning)


onstart:  # A dry run checks neither pins nor GPUs.
    LOADED.begin(workflow, logger, shell)


wildcard_constraints:
    recipe="|".join(PATHS.recipes),
    seed="|".join(map(str, STUDY.seeds)),
    mask="|".join(MASKS),
    condition="|".join([*STUDY.interventions, LIFTED]),
