"""Runs whose results are in a storage of Snakemake, with jobs on machines that share no folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablation.config.study import Study
from ablation.provenance.run_records import GIT_STATE, git_state
from ablation.provenance.storage.bucket import Storage, StorageError
from ablation.workflow.elsewhere import WrongPlace

# Settings of the S3 plugin, and what fsspec's driver of S3 calls the same.
S3_SETTINGS = {
    "endpoint_url": "endpoint_url",
    "access_key": "key",
    "secret_key": "secret",
    "token": "token",
}
# Values of `base:`, `bridge.source:` and `bridge.target:` that are no path.
MADE_BY_US = ("shipped", "pretrain", "random")


def describe_storage(workflow: Any, root: Path) -> bool:
    """Describe Snakemake's default storage to the scripts of jobs; False if there is none.

    They inherit the environment of this process. It gets the storage, its keys, and the commit of
    the repository in `root`, which other machines do not have. Raises WrongPlace for a storage that
    jobs could not reach: a folder that is not absolute, or a URL without a driver.
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
    copies = os.path.abspath(Path(stored.local_path()).parent)
    options: Mapping[str, Any] = {}
    if settings.default_storage_provider == "s3":
        _look_for_folders_again(type(stored))
        options = _s3_options(provider.settings)
    storage = Storage(prefix, copies, options)
    try:
        storage.bucket()
    except StorageError as error:
        raise WrongPlace(str(error)) from None
    storage.describe()
    os.environ.setdefault(GIT_STATE, json.dumps(git_state(root)))
    if workflow.is_main_process:
        workflow.register_envvars(GIT_STATE)
    return True


def _s3_options(settings: Any) -> dict[str, Any]:
    """The settings of the S3 plugin as arguments of fsspec's driver."""
    named = {ours: getattr(settings, theirs, None) for theirs, ours in S3_SETTINGS.items()}
    if region := getattr(settings, "region", None):
        named["client_kwargs"] = {"region_name": region}
    return {name: value for name, value in named.items() if value}


def _look_for_folders_again(stored: Any) -> None:
    """Let a class of stored objects look again for a folder that it has not found.

    snakemake-storage-plugin-s3 0.3.6 caches whether a path is a folder. Snakemake looks before a
    job, so the folder that a job on another machine makes would count as missing.
    """
    found = getattr(stored, "is_dir", None)
    if found is None or hasattr(found, "looks_again"):
        return

    def is_dir(self: Any) -> bool:
        if getattr(self, "_is_dir", None) is False:
            self._is_dir = None
        return found(self)

    is_dir.looks_again = True  # type: ignore[attr-defined]
    stored.is_dir = is_dir


def refuse_absent_data(study: Study) -> None:
    """Raise WrongPlace for files of the user that jobs on other machines would not find.

    These are files that this machine lacks, and models outside of the folder of the run: manifests
    name them by a path relative to it, and it is in another place on every machine.
    """
    models = {"base": "" if study.from_hub else study.base}
    if bridge := study.bridge:
        for role in ("source", "target"):
            name = getattr(bridge, role)
            models[f"bridge.{role}"] = "" if name in study.pins else name
    models = {key: name for key, name in models.items() if name and name not in MADE_BY_US}
    data = {
        "evaluation.data_folder": study.evaluation.data_folder,
        "instructions.data": study.local_instructions,
    }
    for key, name in models.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise WrongPlace(
                f"{key}: {name} is outside of the folder of the run, and results are in a storage."
                "\nPut the model at the same path below that folder on every machine, by the image "
                "or a volume, or on the hub (docs/clouds.md)."
            )
    for key, place in (models | data).items():
        if place and not Path(place).exists():
            raise WrongPlace(
                f"{key}: {place} is not on this machine ({os.uname().nodename}), and results are "
                "in a storage, which does not bring it.\nPut it at the same path on every machine, "
                "by the image or a volume, or on the hub (docs/clouds.md)."
            )
