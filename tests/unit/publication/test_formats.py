"""Promises of the metadata of a deposit to the packages of those who read them.

They are installed into an environment of its own (`make test-metadata`, with a package registry).
METADATA_PYTHON names the Python of one that is there already.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ablation.cli.main import main
from ablation.provenance.energy import carbon_table
from ablation.publication.sample_table import COLUMNS, SAMPLES

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ["mlcroissant[parquet]", "datacite", "cffconvert", "setuptools<81", "codecarbon"]
pytestmark = pytest.mark.e2e

READ_CROISSANT = """
import itertools, json, sys
import mlcroissant
data = mlcroissant.Dataset(jsonld=sys.argv[1])
issues = data.metadata.ctx.issues
rows = [{k: str(v) for k, v in row.items()} for row in data.records(record_set="samples")]
print(json.dumps({"errors": sorted(issues.errors), "warnings": sorted(issues.warnings),
                  "count": len(rows), "first": rows[0]}))
"""
CHECK_DATACITE = """
import json, sys
from datacite import schema45
schema45.validator.validate(json.load(open(sys.argv[1])))
"""
READ_CODECARBON = """
import json
from codecarbon.core.emissions import Emissions
from codecarbon.core.units import Energy
from codecarbon.external.geography import GeoMetadata
from codecarbon.input import DataSource
source = DataSource()
emissions = Emissions(source)
countries = source.get_global_energy_mix_data()
print(json.dumps({code: emissions.get_country_emissions(
    Energy.from_energy(kWh=1), GeoMetadata(country_iso_code=code)) for code in countries}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of the environment."""
    if given := os.environ.get("METADATA_PYTHON"):
        return given
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([home / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
    return str(home / "bin/python")


def run(python, code, *arguments):
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def made(study):
    words = ["--author", "Doe, Jane <https://orcid.org/0000-0002-1825-0097>", "A group"]
    assert main(["deposit", "--license", "CC-BY-4.0", *words, "--to", "deposit"]) == 0
    return study / "deposit"


def test_mlcroissant_finds_nothing_and_reads_every_row(python, made):
    found = json.loads(run(python, READ_CROISSANT, made / "croissant.json"))
    assert found["errors"] == [] and found["warnings"] == []
    assert found["count"] == pq.read_metadata(made / SAMPLES).num_rows
    assert set(found["first"]) == {f"samples/{name}" for name in COLUMNS}


def test_the_record_is_valid_by_the_schema_of_datacite(python, made):
    run(python, CHECK_DATACITE, made / "datacite.json")
    broken = json.loads((made / "datacite.json").read_text())
    del broken["creators"]
    (made / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(AssertionError, match="creators"):
        run(python, CHECK_DATACITE, made / "broken.json")


@pytest.mark.parametrize("which", ["of the deposit", "of the repository"])
def test_the_citation_is_valid_by_cffconvert(python, made, which):
    file = made / "CITATION.cff" if which == "of the deposit" else ROOT / "CITATION.cff"
    command = [str(Path(python).parent / "cffconvert"), "--validate", "-i", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_codecarbon_has_the_same_co2_of_a_kilowatt_hour_in_every_country(python):
    theirs = json.loads(run(python, READ_CODECARBON).splitlines()[-1])
    for code, (_, _, grams) in carbon_table()["countries"].items():
        assert theirs[code] * 1000 == pytest.approx(grams)
