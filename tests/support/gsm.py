"""Made-up items in GSM8K's format, with its prompt, stop strings, metric and filters."""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES, THINGS = ("Eve", "Tom", "Ann", "Pia"), ("keys", "foxes", "hats", "pies")
CODE = """
import json
from pathlib import Path

from datasets import Dataset


def splits(data_folder=None, **unused):
    read = lambda split: [json.loads(x) for x in (Path(data_folder) / f"{split}.jsonl").open()]
    return {split: Dataset.from_list(read(split)) for split in ("train", "test")}
"""
TASK = r"""
task: gsm
custom_dataset: !function data.splits
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["Question:", "</s>", "<|im_end|>"]
  do_sample: false
  temperature: 0.0
  max_gen_toks: 20
num_fewshot: 2
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
filter_list:
  - name: strict-match
    filter:
      - {function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}
      - {function: take_first}
  - name: flexible-extract
    filter:
      - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
      - {function: take_first}
metadata: {version: 3.0}
"""


def write_gsm(folder: Path, items: int = 12, task: str = TASK) -> None:
    """Write the task file gsm.yaml with its code, and its data, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gsm.yaml").write_text(task)
    (folder / "data.py").write_text(CODE)
    rng = random.Random(0)
    for split, count in (("train", 6), ("test", items)):
        lines = [json.dumps(_item(rng)) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


def _item(rng: random.Random) -> dict[str, str]:
    name, other = rng.sample(NAMES, 2)
    thing, a, b = rng.choice(THINGS), rng.randint(1, 60), rng.randint(1, 60)
    question = f"{name} has {a} {thing}" + " and a red hat" * rng.randint(0, 6)
    question += f". {other} gives her {b}. How many {thing} has she?"
    return {"question": question, "answer": f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"}
