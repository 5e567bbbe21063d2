"""A few items in the format of each benchmark, in the folders of the hub's data sets."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")


def _hellaswag(index, activity, ctx_a, ctx_b, endings, label):
    return {
        "ind": index,
        "activity_label": activity,
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}".strip(),
        "endings": endings,
        "source_id": f"wikihow~{index}",
        "split": "val",
        "split_type": "indomain",
        "label": str(label),
    }


HELLASWAG = [
    _hellaswag(
        4,
        "Feeding a hawk",
        "[header] How to feed a hawk [title] Ask Eve.  [step] The hawk chose her.",
        "",
        ["Eve has the key. [substeps] Ask.", "the fox  chose Ann.", "gave Tom 12.", "She said 46."],
        0,
    ),
    _hellaswag(
        9,
        "Giving keys",
        "Then Tom gave the red key to Eve, because she asked.",
        "the fox",
        ["chose Ann.", "asked who has the key.", "gave it to the hawk.", "said 12 + 34."],
        3,
    ),
    _hellaswag(
        11, "Café", "A man is in a naïve café.", "he", [f"asks for {i} keys." for i in range(4)], 2
    ),
    _hellaswag(
        15, "Asking", "Ann asked the fox.", "she", ["chose.", "gave.", "has it.", "said so."], 1
    ),
]
PIQA = [
    {"goal": "Who has  the key?", "sol1": "Eve has it.", "sol2": "Tom has \n it.", "label": 0},
    {"goal": "To feed a hawk,", "sol1": "choose Eve", "sol2": "choose the fox", "label": 1},
    {"goal": " how do I ask?", "sol1": "say 12 + 34", "sol2": "say 46", "label": 1},
    {"goal": "Give the red key to Eve.", "sol1": "ask her", "sol2": "ask Tom who", "label": 0},
]


def _arc(name, question, texts, key, labels="ABCD"):
    choices = {"text": texts, "label": list(labels[: len(texts)])}
    return {"id": name, "question": question, "choices": choices, "answerKey": key}


ARC = [
    _arc("Mercury_1", "Who chose Eve?", ["the hawk", "the fox", "Tom", "Ann"], "A"),
    _arc("NYSEDREGENTS_2", "Who has  it?", ["Eve", "Tom", "Ann", "a fox"], "3", labels="1234"),
    _arc("Mercury_3", "What is 12 + 34?", ["46", "34", "12"], "C"),
    _arc("Mercury_4", "Which key did Tom give?", ["the red  key", "a key", "12", "it"], "B"),
]
ARC_WITHOUT_ITEM = _arc("ODD_5", "Who asked?", ["Eve", "Tom", "Ann", "she"], "E")


def _winogrande(sentence, option1, option2, answer):
    return {"sentence": sentence, "option1": option1, "option2": option2, "answer": answer}


WINOGRANDE = [
    _winogrande("Tom gave the key to Eve because _ asked for it.", "Eve", "Tom", "1"),
    _winogrande("_ asked, so the hawk chose  Eve.", "Ann", "Tom", "2"),  # an empty prompt
    _winogrande("The fox chose Ann over Tom because the _ said so.", "fox", "hawk", "1"),
    _winogrande("Eve has the key, not the fox: ask _ ", "Eve", "the fox", "1"),
]
WINOGRANDE_WITHOUT_ITEM = _winogrande("Nothing is left out here.", "Eve", "Tom", "1")


def write_copies(folder: Path, odd: bool) -> Path:
    """Write copies of the four data sets below `folder` and return it.

    odd: add documents that have no item in the published protocol and raise errors in lm_eval's
        own tasks.
    """
    arc = {name: ARC[::order] for name, order in (("ARC-Easy", 1), ("ARC-Challenge", -1))}
    winogrande = WINOGRANDE
    if odd:
        arc = {name: [ARC_WITHOUT_ITEM, *documents] for name, documents in arc.items()}
        winogrande = [WINOGRANDE[0], WINOGRANDE_WITHOUT_ITEM, *WINOGRANDE[1:]]
    parquet = "{split}-00000-of-00001.parquet"
    _write(folder, "Rowan/hellaswag/data", parquet, validation=HELLASWAG, train=HELLASWAG[:1])
    _write(folder, "baber/piqa", "piqa_{split}.parquet", validation=PIQA, test=PIQA[:1])
    for name, documents in arc.items():
        home = f"allenai/ai2_arc/{name}"
        _write(folder, home, parquet, validation=documents, test=documents)
    home = "allenai/winogrande/winogrande_xl"
    _write(folder, home, "{split}.jsonl", validation=winogrande)
    return folder


def _write(folder: Path, home: str, pattern: str, **splits: list[dict]) -> None:
    (folder / home).mkdir(parents=True)
    for split, documents in splits.items():
        file = folder / home / pattern.format(split=split)
        if file.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(documents), file)
        else:
            file.write_text("\n".join(json.dumps(d, ensure_ascii=False) for d in documents) + "\n")
