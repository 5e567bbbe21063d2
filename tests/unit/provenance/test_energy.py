"""Promises of energy and CO2: codecarbon's factors, and no CO2 of a country that nobody named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.cli.main import main
from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from ablation.provenance.energy import (
    JOULES_A_KWH,
    UnknownRegion,
    carbon_table,
    co2_text,
    kwh_text,
    region,
)
from ablation.report import run_pages
from tests.support.small_results import make

CODES = sorted(carbon_table()["countries"])
joules = st.floats(0, 1e15)


@given(joules, st.sampled_from(CODES))
def test_co2_is_the_energy_times_the_intensity_of_the_country(energy, code):
    place = region(code)
    kwh = energy / 1000 / 3600
    assert place.grams(energy) == pytest.approx(kwh * carbon_table()["countries"][code][2])


def test_the_table_has_plausible_intensities_and_names_its_source_and_date():
    table = carbon_table()
    assert {"source", "licence", "date"} <= set(table) and len(CODES) > 200
    assert all(0 <= grams < 2000 and year >= 2000 for _, year, grams in table["countries"].values())
    assert region("FRA").grams_a_kwh < region("DEU").grams_a_kwh < region("POL").grams_a_kwh


@pytest.mark.parametrize(
    "energy, text",
    [
        (0, "0 kWh"),
        (2227.987, "0.000619 kWh"),
        (3.6e6, "1 kWh"),
        (4.4e10, "12,222 kWh"),
        (1e-3, "0.000000000278 kWh"),
    ],
)
def test_kilowatt_hours_have_three_digits_and_no_exponent(energy, text):
    assert kwh_text(energy) == text
    assert "e" not in co2_text(energy, region("DEU"))


@pytest.mark.parametrize("wrong, close", [("DE", "DEU"), ("Germany", "DEU"), ("deu", "DEU")])
def test_a_country_that_is_not_in_the_table_is_refused_with_close_ones(wrong, close, configs):
    with pytest.raises(UnknownRegion, match=close):
        region(wrong)
    with pytest.raises(ConfigError, match="carbon_region"):
        load_study({"carbon_region": wrong}, configs)


def job(**run):
    run = {"host": "h", "started": "2026-11-24T00:00:00+00:00", "seconds": 1.0} | run
    facts = {"stage": "s", "recipe": None, "seed": None, "mask": None}
    return facts | {"run": run, "attempts": []}


def test_the_costs_page_has_co2_only_with_a_region_and_never_of_unmeasured_energy():
    jobs = [job(energy_joules=2.0 * JOULES_A_KWH), job()]
    plain = run_pages.costs(jobs)
    assert "2 kWh" in plain and "CO2" not in plain
    page = run_pages.costs(jobs, region("DEU"))
    assert co2_text(2.0 * JOULES_A_KWH, region("DEU")) in page and "Germany" in page
    assert "0 g" not in run_pages.costs([job()], region("DEU"))


def test_trace_prints_kilowatt_hours_and_co2_only_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    words = "trace --where recipe=3B seed=1 mask=prefill_bidir task=macro --column after".split()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"500 J ({kwh_text(500)})" in said and "CO2" not in said
    assert main([*words, "--carbon-region", "FRA"]) == 0
    said = capsys.readouterr().out
    assert co2_text(500, region("FRA")) in said and "France" in said
    assert main([*words, "--carbon-region", "XX"]) == 2
