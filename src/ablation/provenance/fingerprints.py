"""Fingerprints: everything that can change the results of a stage, and the hash of it.

Snakemake compares fingerprints to find the jobs that a change affects. Manifests keep them, so that
a job can verify that its inputs were made by the present code and configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from ablation.provenance.accepted import oldest_equal_code, read_accepted
from ablation.provenance.code_hash import code_hash
from ablation.provenance.files import SCHEMA_VERSION, canonical_json, sha256_text
from ablation.vocabulary.optimizers import unused_modules


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """The installed versions of packages, without the local part of a version.

    So 2.13.0+cpu and 2.13.0+cu130 of torch count as the same release.
    """
    return {name: _version(name) for name in sorted(names)}


@cache  # because a look-up takes 7 ms, and a sweep has thousands of fingerprints
def _version(name: str) -> str:
    return metadata.version(name).partition("+")[0]


def make_fingerprint(
    stage: str,
    script: str | Path,
    config: Mapping,
    packages: Iterable[str],
    upstream: Mapping[str, Mapping] | None = None,
    unchecked: Sequence[str] = (),
    modules: frozenset[str] = frozenset(),
) -> dict:
    """The fingerprint of a job, with the hash of all its other entries as `hash`.

    script: the script of the stage, in workflow/scripts/ of the repository.
    config: the part of the configuration that the stage uses.
    packages: the packages whose versions can change the results.
    upstream: {path of an input manifest: the fingerprint that it must have}. The hashes of these
        fingerprints enter this one, so a fingerprint covers the whole history of a result.
    unchecked: the stages of which a table must say that their code was accepted by a reason alone.
    modules: modules that the script imports because `config` names them.

    If accepted.json, at the root of the repository, declares the code equal to older code, the
    fingerprint contains the hash of the older code.
    """
    script = Path(script).resolve()
    accepted = read_accepted(script.parents[2])
    code = code_hash(script, leave_out=unused_modules(config), by_name=modules)
    body = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "code": oldest_equal_code(stage, code, accepted),
        "config": json.loads(canonical_json(config)),
        "packages": package_versions(packages),
        "upstream": {path: s["hash"] for path, s in (upstream or {}).items()},
    }
    if unchecked:
        body["unchecked"] = list(unchecked)
    return {**body, "hash": sha256_text(canonical_json(body))}


def without_keys(value: Mapping, *keys: str) -> dict:
    """A copy of a nested mapping without `keys`, each a path of names that are joined by dots."""
    copy = json.loads(canonical_json(value))
    for key in keys:
        *path, last = key.split(".")
        inner = copy
        for name in path:
            inner = inner[name]
        del inner[last]
    return copy
