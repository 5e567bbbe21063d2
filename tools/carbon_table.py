"""Write src/ablation/provenance/carbon.json from the table of countries in the package codecarbon.

    pip download --no-deps codecarbon && unzip codecarbon-*.whl
    python tools/carbon_table.py codecarbon/data/private_infra/global_energy_mix.json VERSION DATE

VERSION is that of the package, DATE the day on which it was downloaded.
"""

import json
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "src/ablation/provenance/carbon.json"


def main(file: str, version: str, date: str) -> None:
    countries = json.loads(Path(file).read_text("utf-8"))
    table = {
        code: [entry["country_name"], entry["year"], entry["carbon_intensity"]]
        for code, entry in sorted(countries.items())
        if len(code) == 3 and entry.get("carbon_intensity") is not None
    }
    head = {
        "about": "Carbon intensity of electricity by country (ISO 3166-1 alpha-3): its name, the "
        "year of the figure, and grams of CO2 equivalents a kilowatt-hour.",
        "source": f"global_energy_mix.json of the package codecarbon {version}",
        "licence": "MIT, as that package",
        "date": date,
    }
    rows = ",\n".join(f"    {json.dumps(code)}: {json.dumps(row)}" for code, row in table.items())
    start = json.dumps(head, indent=2).removesuffix("\n}")
    TARGET.write_text(f'{start},\n  "countries": {{\n{rows}\n  }}\n}}\n', "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
