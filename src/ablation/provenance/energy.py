"""Energy in kilowatt-hours, and the CO2 of its electricity by the country that it came from.

The intensities are those of the package codecarbon (carbon.json, from tools/carbon_table.py). A
machine does not know its country, so nothing is computed until somebody names it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from math import floor, log10
from typing import Any

JOULES_A_KWH = 3_600_000


class UnknownRegion(ValueError):
    """The table has no such country; the message names close ones."""


@dataclass(frozen=True)
class Region:
    """A country with its electricity: grams of CO2 equivalents a kWh, in that year."""

    code: str
    name: str
    year: int
    grams_a_kwh: float

    def grams(self, joules: float) -> float:
        """The CO2 of this energy in grams."""
        return joules / JOULES_A_KWH * self.grams_a_kwh

    @property
    def note(self) -> str:
        """What a figure of CO2 covers, and the source of its intensity."""
        return (
            "CO2 is that of the electricity of the GPUs alone, without processors, cooling and the "
            f"making of machines. Electricity of {self.name}, {self.grams_a_kwh:g} g/kWh in "
            f"{self.year} ({carbon_table()['source']})."
        )


@cache
def carbon_table() -> dict[str, Any]:
    """The content of carbon.json."""
    return json.loads((files("ablation.provenance") / "carbon.json").read_text("utf-8"))


def region(code: str) -> Region:
    """The country with this code of three letters (ISO 3166-1). Raises UnknownRegion."""
    countries = carbon_table()["countries"]
    if code not in countries:
        names = {name.lower(): found for found, (name, *_) in countries.items()}
        close = [names[n] for n in get_close_matches(code.lower(), names, 3)]
        close += get_close_matches(code.upper(), countries, 3)
        hint = ", ".join(f"{found} ({countries[found][0]})" for found in dict.fromkeys(close))
        raise UnknownRegion(
            f"no carbon intensity is known for {code!r}; a country code of three letters such as "
            f"DEU was expected{f'. Similar: {hint}' if hint else ''}"
        )
    name, year, grams = countries[code]
    return Region(code, name, year, grams)


def kwh_text(joules: float) -> str:
    """Energy in kWh with three digits: `1.23 kWh`, `0.000619 kWh`."""
    return f"{_three_digits(joules / JOULES_A_KWH)} kWh"


def co2_text(joules: float, place: Region) -> str:
    """The CO2 of this energy with three digits: `0.227 g`, `12.3 kg`."""
    grams = place.grams(joules)
    return f"{_three_digits(grams)} g" if grams < 1000 else f"{_three_digits(grams / 1000)} kg"


def _three_digits(value: float) -> str:
    if value <= 0:
        return "0"
    text = f"{value:,.{max(0, 2 - floor(log10(value)))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
