"""Uploads a deposit to Zenodo as a draft, by its REST API (developers.zenodo.org).

A draft is made, filled by PUT into its bucket, described, and never published: its page has the
button. Which draft belongs to a deposit stands beside its folder, so that a later call goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from ablation.console.progress import Progress
from ablation.provenance.files import write_json
from ablation.publication.checkpoint import NotPublishable
from ablation.publication.metadata import KEYWORDS, Author, Deposit

TOKEN = "ZENODO_TOKEN"
HOSTS = {"sandbox": "https://sandbox.zenodo.org", "zenodo": "https://zenodo.org"}
GONE = (404, 410)  # answers for a draft that somebody has removed
SECONDS = (30, 600)  # to connect, and between two answers


def upload(folder: Path, deposit: Deposit, host: str) -> str:
    """Send what the draft lacks; returns a line with its address. host: a key of HOSTS.

    Raises NotPublishable without a token, or if Zenodo refuses.
    """
    token = os.environ.get(TOKEN)
    if not token:
        raise NotPublishable(
            f"The environment has no {TOKEN}: make one with the scope deposit:write on "
            f"{HOSTS[host]}/account/settings/applications. The folder {folder} is complete"
        )
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        try:
            return _upload(session, folder, deposit, host)
        except requests.RequestException as error:
            answer = getattr(error, "response", None)
            status = f"answered {answer.status_code}" if answer is not None else "was not reached"
            raise NotPublishable(
                f"{HOSTS[host]} {status} ({type(error).__name__}). The folder {folder} is complete."
                "\nRun the same command again: files that are there already are not sent again"
            ) from None


def _upload(session: requests.Session, folder: Path, deposit: Deposit, host: str) -> str:
    draft = _draft(session, folder, host)
    there = {file["filename"]: file["checksum"] for file in draft.get("files", ())}
    files = sorted(folder.iterdir())
    missing = [file for file in files if there.get(file.name) != _md5(file)]
    progress = Progress(f"upload {folder.name}", len(missing))
    for done, file in enumerate(missing, 1):
        with open(file, "rb") as content:
            address = f"{_of_host(draft['links']['bucket'], host)}/{quote(file.name)}"
            _json(session.put(address, data=content, timeout=SECONDS))
        progress.update(done)
    body = {"metadata": zenodo_metadata(deposit)}
    own = _of_host(draft["links"]["self"], host)
    found = _json(session.put(own, json=body, timeout=SECONDS))
    return (
        f"{len(missing)} of {len(files)} files were sent to a draft, which is not published: "
        f"{found['links']['html']}"
    )


def _of_host(address: str, host: str) -> str:
    """The address, if it is one of `host`: the token is sent to no other machine."""
    if urlsplit(address)[:2] != urlsplit(HOSTS[host])[:2]:
        raise NotPublishable(
            f"{HOSTS[host]} names {address!r}, which is elsewhere. Nothing more was sent"
        )
    return address


def _draft(session: requests.Session, folder: Path, host: str) -> dict[str, Any]:
    """The draft of an earlier call, if it can still be changed, or a new one."""
    note = folder.with_name(f"{folder.name}.{host}.json")
    if note.is_file():
        number = int(json.loads(note.read_text("utf-8"))["id"])
        answer = session.get(_drafts(host, f"/{number}"), timeout=SECONDS)
        if answer.status_code not in GONE and not (draft := _json(answer)).get("submitted"):
            return draft
    draft = _json(session.post(_drafts(host), json={}, timeout=SECONDS))
    write_json(note, {"id": draft["id"]})
    return draft


def _drafts(host: str, below: str = "") -> str:
    return f"{HOSTS[host]}/api/deposit/depositions{below}"


def _json(answer: requests.Response) -> dict[str, Any]:
    answer.raise_for_status()
    return answer.json()


def _md5(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def zenodo_metadata(deposit: Deposit) -> dict[str, Any]:
    """What Zenodo asks of a data set."""
    found: dict[str, Any] = {
        "upload_type": "dataset",
        "title": deposit.title,
        "description": escape(deposit.description, quote=False),  # Zenodo reads it as HTML
        "creators": [_creator(author) for author in deposit.authors],
        "access_right": "open",
        "license": deposit.licence.lower(),
        "keywords": list(KEYWORDS),
        "version": deposit.version,
        "publication_date": deposit.date,
    }
    if deposit.base:
        found["related_identifiers"] = [
            {"identifier": deposit.base, "relation": "isDerivedFrom", "scheme": "url"}
        ]
    return found


def _creator(author: Author) -> dict[str, str]:
    orcid = {"orcid": author.orcid.rpartition("/")[2]} if author.orcid else {}
    return {"name": author.name, **orcid}
