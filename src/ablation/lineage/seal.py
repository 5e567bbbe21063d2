"""Seals a study: hashes of its manifests and run records in seal.json, signed by ssh-keygen.

Manifests name every result by hash, so a signed seal covers the whole study. Whoever edits results
can write matching manifests, tables and seal.json too, but no signature without the key.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from ablation.provenance.files import (
    SCHEMA_VERSION,
    json_text,
    sha256_file,
    visible_files,
    write_bytes,
)
from ablation.provenance.manifests import SEAL, SIGNATURE, StaleInput
from ablation.vocabulary.catalogue import RECORD_PAGES

FOR_US = ("-n", "ablation")  # the namespace, so that signatures for other purposes are refused
ENDS = ("manifest.json", "run.json", *(f"report/{page.name}.html" for page in RECORD_PAGES))


class CannotSign(RuntimeError):
    """ssh-keygen is missing or has refused; the message has its reason."""


class _Seal(BaseModel):
    study: str
    files: dict[str, str]


def sealed_files(home: Path) -> dict[str, str]:
    """{path below `home`: sha256} of all manifests, run records and pages of run records."""
    paths = (path.relative_to(home).as_posix() for path in visible_files(home))
    return {path: sha256_file(home / path) for path in paths if path.endswith(ENDS)}


def write_seal(home: Path, key: Path | None) -> None:
    """Write seal.json, and its signature if a private key is given; an old signature goes.

    Equal results give equal bytes. Raises CannotSign before anything is written.
    """
    body = {"schema_version": SCHEMA_VERSION, "study": _name(home), "files": sealed_files(home)}
    seal = json_text(body).encode()
    signature = _ssh_keygen(seal, "sign", *FOR_US, "-f", os.path.abspath(key)) if key else None
    (home / SIGNATURE).unlink(missing_ok=True)
    write_bytes(home / SEAL, seal)
    if signature:
        write_bytes(home / SIGNATURE, signature)


def signed_by(home: Path, signers: Path) -> str:
    """The name of the allowed signer of a study's seal.json.

    signers: an allowed-signers file, as `man ssh-keygen` describes it. Raises CannotSign if it
    allows no key that made the signature, or if the seal is not the one that was signed.
    """
    allowed = ("-f", os.path.abspath(signers), "-s", os.path.abspath(home / SIGNATURE))
    try:
        names = _ssh_keygen(b"", "find-principals", *allowed).decode(errors="replace").splitlines()
    except CannotSign as error:
        raise CannotSign(
            f"{home / SIGNATURE} is not by a key that {signers} allows: {error}"
        ) from None
    seal, reason = (home / SEAL).read_bytes(), "no name of a signer"
    for name in (name for line in names for name in line.split(",")):
        try:
            _ssh_keygen(seal, "verify", *FOR_US, "-I", name, *allowed)
            return name
        except CannotSign as error:
            reason = str(error)
    raise CannotSign(f"{home / SEAL} is not what was signed: {reason}")


def changes_since_seal(home: Path) -> Iterator[str]:
    """One sentence for each manifest or run record that is not as seal.json has it.

    Raises StaleInput if seal.json is no seal.
    """
    seal = home / SEAL
    try:
        body = _Seal.model_validate_json(seal.read_bytes())
        study, sealed = body.study, body.files
    except ValueError:
        raise StaleInput(
            f"{seal} is no seal: cut off or edited. Restore it, or seal again"
        ) from None
    if study != _name(home):
        yield f"{seal} is the seal of the study {study}, not of {_name(home)}"
    now = sealed_files(home)
    for path in sorted({*sealed, *now}):
        if path not in now:
            yield f"{home / path} is missing, but was there when {seal} was written"
        elif path not in sealed:
            yield f"{home / path} was written after {seal}"
        elif now[path] != sealed[path]:
            yield f"{home / path} has changed since {seal} was written"


def _name(home: Path) -> str:
    return Path(os.path.abspath(home)).name


def _ssh_keygen(message: bytes, action: str, *options: str) -> bytes:
    """What `ssh-keygen -Y` prints; it reads `message` from its standard input."""
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", action, *options], input=message, capture_output=True
        )
    except FileNotFoundError:
        raise CannotSign("ssh-keygen was not found. Install OpenSSH, which has it") from None
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()
        raise CannotSign(said[0] if said else f"ssh-keygen ended with {done.returncode}")
    return done.stdout
