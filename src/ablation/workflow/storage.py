"""Runs whose results are in a storage of Snakemake, with jobs on machines that share no folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ablation.config.study import Study
from ablation.provenance.run_records import GIT_STATE, git_state
from ablation.provenance.storage.bucket import STORAGE
from ablation.provenance.storage.copies import COPIES
from ablation.provenance.storage.states import STATES
from ablation.workflow.elsewhere import WrongPlace

# Settings of the S3 plugin, and the variables from which other clients of S3 take the same.
S3 = {
    "endpoint_url": "AWS_ENDPOINT_URL",
    "region": "AWS_DEFAULT_REGION",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
}


BASES = ("shipped", "pretrain", "random")  # made by the project, not named by a path


def describe_storage(workflow: Any, root: Path) -> bool:
    """Describe Snakemake's default storage to the scripts of jobs; False if there is none.

    Scripts inherit the environment of this process: where the local copies are, the storage, its
    keys, and the commit of the repository in `root`. Raises WrongPlace for a folder as storage
    that is not absolute, since each machine has a working directory of its own.
    """
    settings = workflow.storage_settings
    if not settings.default_storage_provider:
        return False
    prefix = settings.default_storage_prefix or ""
    if "://" not in prefix and not Path(prefix).is_absolute():
        raise WrongPlace(
            f"--default-storage-prefix {prefix or '(none)'} is no absolute path of a folder and no "
            "URL.\nName the storage so that every machine finds it: /mnt/storage/ours, "
            "s3://bucket/ours (docs/clouds.md)."
        )
    provider, prefix = workflow.storage_registry.default_storage_provider, prefix.rstrip("/")
    stored = provider.object(f"{prefix}/results")
    copy = Path(stored.local_path())
    os.environ |= {COPIES: os.path.abspath(copy.parent), STORAGE: prefix}
    if settings.default_storage_provider == "s3":
        _look_for_folders_again(type(stored))
        for name, variable in S3.items():
            if value := getattr(provider.settings, name, None):
                os.environ.setdefault(variable, value)
    os.environ.setdefault(GIT_STATE, json.dumps(git_state(root)))
    if workflow.is_main_process:  # machines have neither the repository nor the user's environment
        workflow.register_envvars(*(name for name in (GIT_STATE, STATES) if name in os.environ))
    return True


def _look_for_folders_again(stored: Any) -> None:
    """Let a class of stored objects look again for a folder that it has not found.

    snakemake-storage-plugin-s3 0.3.6 caches whether a path is a folder. Snakemake looks before a
    job, so the folder that a job on another machine makes would count as missing.
    """
    found = getattr(stored, "is_dir", None)
    if found is None or hasattr(found, "looks_again"):
        return

    def is_dir(self: Any) -> bool:
        if not self._is_dir:
            self._is_dir = None
        return found(self)

    is_dir.looks_again = True  # type: ignore[attr-defined]
    stored.is_dir = is_dir


def refuse_absent_data(study: Study) -> None:
    """Raise WrongPlace if this machine lacks the user's own files that the study reads."""
    named = {
        "base": None if study.from_hub or study.base in BASES else study.base,
        "evaluation.data_folder": study.evaluation.data_folder,
        "instructions.data": study.local_instructions,
    }
    for key, place in named.items():
        if place and not Path(place).exists():
            raise WrongPlace(
                f"{key}: {place} is not on this machine ({os.uname().nodename}), and results are "
                "in a storage, which does not bring it.\nPut it at the same path on every machine, "
                "by the image or a volume, or on the hub (docs/clouds.md)."
            )
