"""Writes the data of config/example.yaml into resources/example (`make pictures`).

They are of the micro-world, whose facts the shipped base has learned, so the example shows damage
and recovery in minutes. The items are of scenes that no record and no pretraining text tells.
"""

from __future__ import annotations

from pathlib import Path

from ablation.config.load import load_study
from ablation.micro_world.instructions import OPEN, finetuning_records
from ablation.micro_world.scenes import TOOL, World
from ablation.micro_world.tasks import items
from ablation.provenance.files import write_json_lines

FOLDER = Path(__file__).resolve().parent.parent / "resources/example"
SEED = 1  # Not that of the micro study, so that the items are not the reported ones.
RECORDS, ITEMS = 1200, 200


def example_data() -> dict[Path, list[dict]]:
    """{file: its lines}."""
    world = load_study({}).world
    told = World(world.seed, world.eval_percent, world.dev_percent)
    records = finetuning_records(told, RECORDS, SEED, {TOOL: 1, OPEN: 1})
    fields = ("instruction", "input", "output")
    asked = [
        {"question": item["query"], "choices": item["choices"], "answer": item["gold"]}
        for item in items(told, TOOL, ITEMS, SEED)
    ]
    return {
        FOLDER / "records.jsonl": [{name: record[name] for name in fields} for record in records],
        FOLDER / "items.jsonl": asked,
    }


if __name__ == "__main__":
    for file, lines in example_data().items():
        write_json_lines(file, lines)
