"""How well the models of the study of doses answer fresh records of their families.

    python benchmarks/families_learned.py results/dose

A family that was not learned cannot carry over, so docs/studies/dose.md tells R beside this. Each
model reads records that are in no training, under its own training mask, and is right about one if
every token of the answer is the most likely one. Prints CSV.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ablation.data.alpaca import alpaca_prompt
from ablation.micro_world.families import family_record
from ablation.micro_world.scenes import World
from ablation.model.forward import target_logits
from ablation.model.packing import Example, pack
from ablation.vocabulary.micro_families import FAMILIES

RECORDS, SEED = 100, 7501  # of each family; the seed is that of no study


def share_right(model, tokenizer, world: World, family: str, mask: str) -> float:
    """The share of fresh records of a family that the model answers without a wrong token."""
    random, examples = Random(f"{SEED} {family}"), []
    for _ in range(RECORDS):
        record = family_record(world, family, random)
        answer = tokenizer(f" {record['output']}", add_special_tokens=False)["input_ids"]
        prompt = tokenizer(alpaca_prompt(record))["input_ids"]
        examples.append(Example(prompt, [[*answer, tokenizer.eos_token_id]]))
    rows = pack(examples, 128)
    with torch.no_grad():
        right = target_logits(model, rows, mask).argmax(-1) == rows.target_id
    wrong = set(rows.target_owner[~right].tolist())
    return 1 - len(wrong) / RECORDS


def rows_of(path: Path) -> list[str]:
    """A row for each family that the model of a checkpoint's manifest was trained on."""
    torch.set_num_threads(1)
    manifest = json.loads(path.read_text("utf-8"))
    recipe, seed = manifest.get("recipe"), manifest.get("seed")
    families = [name for name in FAMILIES if name in manifest.get("families", ())]
    if not families or "summary.json" not in manifest["outputs"]:
        return []
    records = path.parents[3] / "base/instructions_of" / recipe / "manifest.json"
    config = json.loads(records.read_text("utf-8"))["fingerprint"]["config"]["world"]
    world = World(*(config[key] for key in ("seed", "eval_percent", "dev_percent")))
    mask = manifest["fingerprint"]["config"]["recipe"]["train_mask"]
    folder = path.parent / manifest["model"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    shares = ((f, share_right(model, tokenizer, world, f, mask)) for f in families)
    return [f"{recipe},{seed},{family},{share:.2f}" for family, share in shares]


def main(study: Path) -> None:
    """Print the rows of all finetuned models."""
    print("recipe,seed,family,right")
    with ProcessPoolExecutor() as pool:
        for rows in pool.map(rows_of, sorted(study.glob("stage3_finetune/*/seed*/manifest.json"))):
            print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
