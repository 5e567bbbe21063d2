"""The metadata of a deposit in three forms: DataCite, Croissant (MLCommons) and RO-Crate.

All say the same of one `Deposit`: who made what, when, under which licence, from which model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ablation.publication.sample_table import GENERATIONS, ROW_FILES, SAMPLES

SHA256 = "https://w3id.org/ro/terms/workflow-run#sha256"  # no term of RO-Crate 1.1
ORCID = re.compile(r"https://orcid\.org/\d{4}-\d{4}-\d{4}-\d{3}[\dX]")
SPDX = "https://spdx.org/licenses/"
DESCRIPTOR = "ro-crate-metadata.json"
ARCHIVE_TYPE, PARQUET = "application/zip", "application/vnd.apache.parquet"
TYPES = {
    ".zip": ARCHIVE_TYPE,
    ".parquet": PARQUET,
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".cff": "application/yaml",
}
CROISSANT_TERMS = """
citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes
isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
samplingRate separator source subField transform
""".split()
# The context of Croissant 1.0, as its specification prints it.
CROISSANT_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in CROISSANT_TERMS},
}


@dataclass(frozen=True)
class Author:
    """Who made the study. A person has a family name; a group has none."""

    name: str
    family: str = ""
    given: str = ""
    orcid: str | None = None


@dataclass(frozen=True)
class Deposit:
    """What the metadata say.

    date: ISO 8601, of the last run. base: the address of the base on the hub, if it is there.
    files: {name: (SHA-256, bytes, what it is)} of the files beside the metadata.
    """

    study: str
    authors: Sequence[Author]
    licence: str
    date: str
    version: str
    description: str
    base: str | None
    files: Mapping[str, tuple[str, int, str]]

    @property
    def title(self) -> str:
        """The title of the deposit."""
        return f"Results of the ablation study {self.study}"


def media_type(name: str) -> str:
    """The media type of a file by its ending."""
    return TYPES.get(name[name.rfind(".") :], "application/octet-stream")


def datacite(deposit: Deposit) -> dict[str, Any]:
    """The record by the schema DataCite 4.5, without the DOI that a repository gives it."""
    related = [
        {
            "relatedIdentifier": deposit.base,
            "relatedIdentifierType": "URL",
            "relationType": "IsDerivedFrom",
        }
    ]
    return {
        "schemaVersion": "http://datacite.org/schema/kernel-4",
        "types": {"resourceType": "Study results", "resourceTypeGeneral": "Dataset"},
        "titles": [{"title": deposit.title}],
        "creators": [_datacite_author(author) for author in deposit.authors],
        "publisher": {"name": "unpublished"},
        "publicationYear": deposit.date[:4],
        "dates": [{"date": deposit.date, "dateType": "Created"}],
        "version": deposit.version,
        "language": "en",
        "subjects": [{"subject": word} for word in KEYWORDS],
        "rightsList": [
            {
                "rights": deposit.licence,
                "rightsIdentifier": deposit.licence,
                "rightsIdentifierScheme": "SPDX",
                "rightsUri": f"{SPDX}{deposit.licence}.html",
                "schemeUri": SPDX,
            }
        ],
        "descriptions": [{"description": deposit.description, "descriptionType": "Abstract"}],
        "sizes": [f"{sum(size for _, size, _ in deposit.files.values())} bytes"],
        "formats": sorted({media_type(name) for name in deposit.files}),
        **({"relatedIdentifiers": related} if deposit.base else {}),
    }


KEYWORDS = ("language models", "ablation", "finetuning", "evaluation", "provenance")


def _datacite_author(author: Author) -> dict[str, Any]:
    if not author.family:
        return {"name": author.name, "nameType": "Organizational"}
    found: dict[str, Any] = {"name": author.name, "nameType": "Personal"}
    found |= {"familyName": author.family, "givenName": author.given}
    if author.orcid:
        scheme = {"nameIdentifierScheme": "ORCID", "schemeUri": "https://orcid.org"}
        found["nameIdentifiers"] = [{"nameIdentifier": author.orcid, **scheme}]
    return found


def croissant(deposit: Deposit) -> dict[str, Any]:
    """The sample rows and tables as a data set of Croissant 1.0."""
    shown = {n: f for n, f in deposit.files.items() if n in ROW_FILES or n.endswith(".csv")}
    return {
        "@context": CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"ablation-{deposit.study}",
        "description": deposit.description,
        "license": f"{SPDX}{deposit.licence}.html",
        "creator": [_schema_author(author) for author in deposit.authors],
        "datePublished": deposit.date,
        "version": "1.0.0",
        "citeAs": f"{'; '.join(a.name for a in deposit.authors)}: {deposit.title}, "
        f"{deposit.date[:4]}",
        "keywords": list(KEYWORDS),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "description": about,
                "contentUrl": name,
                "contentSize": f"{size} B",
                "encodingFormat": "application/x-parquet"
                if name in ROW_FILES
                else media_type(name),
                "sha256": sha256,
            }
            for name, (sha256, size, about) in shown.items()
        ],
        "recordSet": [_record_set(name) for name in ROW_FILES if name in deposit.files],
    }


RECORDS = {  # {file of rows: (name of its records, what one is)}
    SAMPLES: ("samples", "One choice of one item under one condition in each record."),
    GENERATIONS: ("generations", "One item and filter under one condition in each record."),
}


def _record_set(file: str) -> dict[str, Any]:
    name, about = RECORDS[file]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": about,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": found.meaning,
                "dataType": _croissant_type(found.kind),
                "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
            }
            for column, found in ROW_FILES[file].items()
        ],
    }


def _croissant_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _schema_author(author: Author) -> dict[str, Any]:
    person = {"@type": "sc:Person" if author.family else "sc:Organization", "name": author.name}
    return person | ({"url": author.orcid} if author.orcid else {})


def crate(deposit: Deposit) -> dict[str, Any]:
    """The folder as an RO-Crate 1.1."""
    authors = [
        {
            "@id": author.orcid or f"#author-{number}",
            "@type": "Person" if author.family else "Organization",
            "name": author.name,
        }
        for number, author in enumerate(deposit.authors, 1)
    ]
    licence = f"{SPDX}{deposit.licence}"
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": deposit.title,
        "description": deposit.description,
        "datePublished": deposit.date,
        "license": {"@id": licence},
        "author": [{"@id": author["@id"]} for author in authors],
        "keywords": ", ".join(KEYWORDS),
        "hasPart": [{"@id": name} for name in deposit.files],
        **({"isBasedOn": {"@id": deposit.base}} if deposit.base else {}),
    }
    files = [
        {
            "@id": name,
            "@type": "File",
            "name": name,
            "description": about,
            "contentSize": str(size),
            "encodingFormat": media_type(name),
            "sha256": sha256,
        }
        for name, (sha256, size, about) in deposit.files.items()
    ]
    descriptor = {
        "@id": DESCRIPTOR,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    extra = [{"@id": licence, "@type": "CreativeWork", "name": deposit.licence}]
    if deposit.base:
        extra.append({"@id": deposit.base, "@type": "CreativeWork", "name": "the base model"})
    return {
        "@context": ["https://w3id.org/ro/crate/1.1/context", {"sha256": SHA256}],
        "@graph": [descriptor, root, *files, *authors, *extra],
    }
