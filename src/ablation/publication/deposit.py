"""A study as a folder for an archive of research data, such as Zenodo: no file needs another.

It has the archive of `ablation push`, the sample rows as one table, the tables of the study, and
what describes them. Weights and texts of items stay at home. Equal results give equal bytes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ablation.lineage.lineage import run_beside
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_file, write_json, write_text
from ablation.provenance.manifests import load_manifest
from ablation.publication.card import ROWS, leaks_marked
from ablation.publication.checkpoint import NotPublishable, require_verified
from ablation.publication.metadata import (
    DESCRIPTOR,
    ORCID,
    SPDX,
    Author,
    Deposit,
    crate,
    croissant,
    datacite,
)
from ablation.publication.run_crate import crate_of_study
from ablation.publication.sample_table import GENERATIONS, ROW_FILES, SAMPLES, write_row_files
from ablation.remote.push import push
from ablation.report.text_tables import markdown, recovery_tables
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO

SUMS, CITATION, LICENCE, README = "SHA256SUMS", "CITATION.cff", "LICENSE.txt", "README.md"
CROISSANT, DATACITE = "croissant.json", "datacite.json"
RUN_CRATE = "run-crate-metadata.json"  # where it stood in results/, it described these results
TABLES = {
    "recovery.csv": "What was lost and what came back, with intervals, by recipe, mask and task.",
    "per_task.csv": "The accuracy of every model under every mask on every task.",
    "contrasts.csv": "The recipes compared with each other, on the same items.",
}
ROWS_ABOUT = {
    SAMPLES: "The sample rows of all conditions: one choice of one item in each row.",
    GENERATIONS: "The judgements of all generated texts: one item and filter in each row.",
}
MACROS_ALONE = (
    "These are means over tasks of multiple choice. Rows of generation tasks, named "
    "`<task>:<filter>`, are in the tables."
)
HOW_TO_READ = {
    SAMPLES: f"Without it, `{SAMPLES}` has all sample rows. An item is answered rightly if its "
    "choice with the highest log-likelihood is the gold one (of choices of different lengths, a "
    "metric may divide by `characters`, `bytes` or `tokens`).",
    GENERATIONS: f"`{GENERATIONS}` has the judgements of generated texts, without the texts, in "
    "which a model may quote the benchmark.",
}
SPDX_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def make_deposit(
    home: Path, folder: Path, authors: Sequence[str], licence: str | None, root: Path
) -> Deposit:
    """Write the folder of the study in `home`, or replace the deposit that is there.

    authors: `Family, Given <ORCID>` each, or the name of a group; none and no licence take those of
    CITATION.cff in `root`. Raises NotPublishable if a file of the study is not as it was made, or
    not the one that its run crate describes, if authors or licence are unknown, or if `folder`
    holds something else.
    """
    study = home.name
    if home.resolve() != (Path("results") / study).resolve():
        raise NotPublishable(f"{home} is not results/{study} here: go to the folder above results")
    _refuse_other_folder(folder)
    require_verified(home)
    described = crate_of_study(home)
    cited = _citation(root)
    makers = [read_author(text) for text in authors] or _cited_authors(cited)
    licence = licence or str(cited.get("license", ""))
    if not makers or not SPDX_IDENTIFIER.fullmatch(licence):
        what = "authors" if not makers else "licence"
        raise NotPublishable(
            f"The {what} of the results are unknown: {root / CITATION} names none. Name them: "
            "--author 'Family, Given <https://orcid.org/...>' --license CC-BY-4.0"
        )
    with atomic_path(folder) as scratch:
        scratch.mkdir()
        files = _write_results(home, scratch, described)
        date, base = _date(home), _base(home)
        facts = (study, makers, licence, date, _version(home), _description(study, base), base)
        _write_licence(scratch / LICENCE, root, licence, cited)
        write_text(scratch / CITATION, _own_citation(Deposit(*facts, {})))
        write_text(scratch / README, _readme(home, Deposit(*facts, {}), files))
        files |= {
            README: "What is in this folder, and how to use it.",
            CITATION: "How to cite it.",
            LICENCE: "The licence of the results.",
        }
        deposit = Deposit(*facts, _described(scratch, files))
        write_json(scratch / DATACITE, datacite(deposit))
        write_json(scratch / CROISSANT, croissant(deposit))
        files |= {DATACITE: "Metadata by DataCite 4.5.", CROISSANT: "Metadata by Croissant 1.0."}
        deposit = Deposit(*facts, _described(scratch, files))
        write_json(scratch / DESCRIPTOR, crate(deposit))
        names = sorted(path.name for path in scratch.iterdir())
        sums = "".join(f"{sha256_file(scratch / name)}  {name}\n" for name in names)
        write_text(scratch / SUMS, sums)
    return deposit


def read_author(text: str) -> Author:
    """The author in `Family, Given <https://orcid.org/...>`; without a comma, a group.

    Raises NotPublishable.
    """
    found = re.fullmatch(r"\s*([^<>]+?)\s*(?:<([^<>]*)>)?\s*", text)
    orcid = found[2] if found else None
    if not found or (orcid and not ORCID.fullmatch(orcid)):
        raise NotPublishable(
            f"--author {text!r}: 'Family, Given <https://orcid.org/0000-0000-0000-0000>' was "
            "expected, where <...> may be left out"
        )
    family, comma, given = (part.strip() for part in found[1].partition(","))
    return Author(found[1], *((family, given) if comma else ("", "")), orcid=orcid)


def _refuse_other_folder(folder: Path) -> None:
    """Raise NotPublishable if `folder` holds a file that a deposit there did not list."""
    sums, needed = folder / SUMS, {DATACITE, CROISSANT, DESCRIPTOR}
    if not folder.exists():
        return
    lines = sums.read_text("utf-8", "replace").splitlines() if sums.is_file() else []
    listed = {SUMS, *(line.partition("  ")[2] for line in lines)}
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not needed <= listed or there - listed:
        other = min(there - listed, default=folder.name)
        raise NotPublishable(
            f"{folder} is there and is no deposit alone: {other} is not listed in its {SUMS}. "
            "Name another folder, or move it away"
        )


# ---- what is in the folder ----------------------------------------------------------------------


def _write_results(home: Path, folder: Path, described: Path | None) -> dict[str, str]:
    """Write archive, sample rows and tables; returns {file: what it is}.

    described: the run crate of the study, if it has one.
    """
    archive = f"{home.name}.zip"
    push(str(folder / archive), home.name, weights=False)
    files = {archive: "All records, tables, figures and sample rows, for `ablation pull`."}
    files |= {name: ROWS_ABOUT[name] for name in write_row_files(home, folder)}
    for name, about in TABLES.items():
        if (home / name).is_file():
            shutil.copyfile(home / name, folder / name)
            files[name] = about
    if described:
        shutil.copyfile(described, folder / RUN_CRATE)
        files[RUN_CRATE] = "The Provenance Run Crate of the study: results/ro-crate-metadata.json."
    return files


def _described(folder: Path, files: Mapping[str, str]) -> dict[str, tuple[str, int, str]]:
    return {
        name: (sha256_file(folder / name), (folder / name).stat().st_size, about)
        for name, about in files.items()
    }


def _date(home: Path) -> str:
    """The day of the last run in UTC; today if no run record is here."""
    runs = [run_beside(path) or {} for path in home.rglob("*manifest.json")]
    return max((r["started"][:10] for r in runs if r.get("started")), default=_today())


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _version(home: Path) -> str:
    """The beginning of the hash of the table's manifest, which names everything behind it."""
    file = home / "recovery.manifest.json"
    if not file.is_file():
        raise NotPublishable(f"{file} is missing: make the recovery table of the study first")
    return str(load_manifest(file)["sha256"])[:12]


def _base(home: Path) -> str | None:
    from ablation.data.hub import model_commit

    file = home / "base" / "manifest.json"
    manifest = load_manifest(file) if file.is_file() else {}
    commit = model_commit(manifest)
    return f"https://huggingface.co/{manifest['model']}/tree/{commit}" if commit else None


def _description(study: str, base: str | None) -> str:
    of = f"the model {base}" if base else "a language model"
    return (
        f"Results of the study {study}, in which something was taken away from {of}, and the model "
        "was trained, to measure what came back: a row for each choice of each item under each "
        "condition, the tables computed from them, and the hashes of everything that they were "
        "made from. Rows that were trained or scored under a mask that shows the model its own "
        "targets are marked as leaking. Weights and texts of items are not included."
    )


def _readme(home: Path, deposit: Deposit, files: Mapping[str, str]) -> str:
    found = leaks_marked(recovery_tables(home / "recovery.csv", ALL_SEEDS, MACRO))
    archive, study = f"{home.name}.zip", deposit.study
    parts = [
        f"# {deposit.title}",
        deposit.description,
        "\n".join(f"- `{name}`: {about}" for name, about in files.items()),
        f"`sha256sum -c {SUMS}` compares every file with its hash.",
        "## What came back",
        ROWS.partition(", and they are in no")[0] + ".",
        markdown(found).strip(),
        *([MACROS_ALONE] if GENERATIONS in files else []),
        "## How to go on from it",
        "With the package `ablation`, in an empty folder:\n\n"
        f"    ablation pull {archive}                        # every file again, byte for byte\n"
        f"    ablation verify results/{study} --recompute    # every cell, from its sample rows\n"
        f"    ablation trace results/{study}/recovery.csv --where ... --column gain",
        *(f"{HOW_TO_READ[name]}\n\n{_columns(name)}" for name in ROW_FILES if name in files),
    ]
    return "\n\n".join(parts) + "\n"


def _columns(name: str) -> str:
    lines = [f"| `{column}` | {found.meaning} |" for column, found in ROW_FILES[name].items()]
    return "\n".join(["| column | meaning |", "|---|---|", *lines])


# ---- authors and licence ------------------------------------------------------------------------


def _citation(root: Path) -> Mapping[str, Any]:
    file = root / CITATION
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise NotPublishable(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    return found if isinstance(found, Mapping) else {}


def _cited_authors(cited: Mapping[str, Any]) -> list[Author]:
    found = []
    listed = cited.get("authors")
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, Mapping):
            continue
        family, given = str(entry.get("family-names", "")), str(entry.get("given-names", ""))
        name = ", ".join(filter(None, (family, given))) or str(entry.get("name", ""))
        found.append(Author(name, family, given, entry.get("orcid")))
    return found


def _own_citation(deposit: Deposit) -> str:
    def entry(author: Author) -> dict[str, str]:
        person = {"family-names": author.family, "given-names": author.given}
        own = person if author.family else {"name": author.name}
        return {k: v for k, v in (own | {"orcid": author.orcid or ""}).items() if v}

    content = {
        "cff-version": "1.2.0",
        "message": "If you use these results, please cite them.",
        "type": "dataset",
        "title": deposit.title,
        "authors": [entry(author) for author in deposit.authors],
        "license": deposit.licence,
        "version": deposit.version,
        "date-released": deposit.date,
        "abstract": deposit.description,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _write_licence(file: Path, root: Path, licence: str, cited: Mapping[str, Any]) -> None:
    """The text of the licence, if it is that of the repository; otherwise its address."""
    text = root / "LICENSE"
    if licence == cited.get("license") and text.is_file():
        shutil.copyfile(text, file)
    else:
        write_text(file, f"SPDX-License-Identifier: {licence}\n{SPDX}{licence}.html\n")
