"""Promise: a changed line makes stale what it can change, and nothing else.

Each case edits one line in a copy of the package, as a contributor would, and compares the scripts
whose code hash changes with a table. Scripts that train or score are the expensive ones.
"""

import shutil
from pathlib import Path

import pytest

from ablation.provenance.code_hash import code_hash
from ablation.vocabulary.optimizers import OPTIMIZERS, unused_modules
from ablation.vocabulary.stages import STAGES

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted({stage.script for stage in STAGES.values()})
# Every script that reads accuracies from sample rows.
ACCURACIES = {"metrics", "recovery", "flips", "published"}
DRAWN = {"figures", "pages"}
FINETUNED = {f"finetune {name}" for name in OPTIMIZERS}
TRAINED = FINETUNED | {"bridge_cells adamw_torch"}


def hashes(package):
    """{script, and of a training also its optimizer: its code hash}."""
    found = {}
    for script in SCRIPTS:
        file = ROOT / f"workflow/scripts/{script}.py"
        if script in ("finetune", "bridge_cells"):
            names = OPTIMIZERS if script == "finetune" else ["adamw_torch"]
            for name in names:
                unused = unused_modules({"recipe": {"optimizer": name}})
                found[f"{script} {name}"] = code_hash(file, package, unused)
        else:
            found[script] = code_hash(file, package)
    return found


CASES = {
    "how texts are generated": (
        "scoring/generation/greedy.py",
        "REFILL = 8",
        "REFILL = 4",
        {"generate"},
    ),
    "how generated texts are judged again": (
        "data/generation/exact_match.py",
        "text = text.lower()",
        "text = text.casefold()",
        ACCURACIES - {"metrics"} | {"pages", "generate"},
    ),
    "a new metric": (
        "vocabulary/metrics.py",
        "_TABLE = (\n",
        '_TABLE = (\n    Metric("acc_word", per="characters"),\n',
        ACCURACIES | {"pages"},
    ),
    "a constant of the planner": ("planning/estimate.py", "FORWARD = ", "FORWARD = 2 * ", set()),
    "the width of a table": ("console/tables.py", "WIDTH = 170", "WIDTH = 120", set()),
    "one more refused model type": (
        "config/architectures.py",
        "_STATE_SPACE = ",
        '_ANOTHER = "attention that is not softmax"\n_STATE_SPACE = ',
        set(),
    ),
    "what counts as agreement with the stock forward": (
        "model/checks/agreement.py",
        "torch.float32: 2e-5",
        "torch.float32: 1e-5",
        set(),
    ),
    "a message of the trainer": (
        "training/resumable_trainer.py",
        "Lower learning_rate",
        "Decrease it",
        set(),
    ),
    "how ranks are started": ("parallel/launch.py", "JOIN_MINUTES = 10", "JOIN_MINUTES = 9", set()),
    "how ranks share work": (
        "parallel/collectives.py",
        "turn % 2",
        "turn % 3",
        TRAINED | {"evaluate", "generate", "samples"},
    ),
    "a message of the scorer": ("scoring/items.py", "cannot be tabulated", "is refused", set()),
    "how trainings are shown in trackers": (
        "training/tracking.py",
        "SECONDS_TO_CLOSE = 30.0",
        "SECONDS_TO_CLOSE = 60.0",
        set(),
    ),
    "a comment": ("training/finetune.py", "\nimport", "\n# A comment.\nimport", set()),
    "a colour of the charts": ("report/charts.py", '"#2e3440"', '"#222222"', DRAWN),
    "a key of the configuration": ("config/recipes.py", "class Samples(", "class Prompts(", set()),
    "the optimizer of two recipes": (
        "training/optimizers/stochastic_adafactor.py",
        "NORM_EPS = 1e-6",
        "NORM_EPS = 1e-7",
        {"finetune adafactor", "finetune adafactor_bf16"},
    ),
    "the trainer of finetunings": (
        "training/trainer.py",
        "import torch\n",
        "import torch\nX = 1\n",
        FINETUNED,
    ),
    "how trainings resume": (
        "training/resumable_trainer.py",
        "\nfrom pathlib",
        "\nX = 1\nfrom pathlib",
        TRAINED,
    ),
    "how finetuning records are parsed": (
        "data/json_lines.py",
        'split(b"\\n")',
        "splitlines()",
        TRAINED
        | {"curves", "mask_cells", "bag_of_words", "samples", "bridge_tables"}
        | {"bridge_states", "bridge_inference", "fetch_instructions", "instructions", "pretrain"}
        | {"local_instructions"},
    ),
}


@pytest.fixture(scope="module")
def before():
    return hashes(ROOT / "src/ablation")


@pytest.mark.parametrize("case", CASES)
def test_a_line_makes_stale_what_it_can_change(case, before, tmp_path):
    file, old, new, stale = CASES[case]
    package = tmp_path / "ablation"
    shutil.copytree(ROOT / "src/ablation", package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (package / file).read_text()
    assert old in text, f"{file} does not hold {old!r}"
    (package / file).write_text(text.replace(old, new, 1))
    after = hashes(package)
    assert {name for name in before if before[name] != after[name]} == stale


def test_the_parts_of_an_optimizer_belong_to_its_trainings_alone():
    assert unused_modules({"recipe": {"optimizer": "no such"}}) == frozenset()
    assert unused_modules({}) == frozenset()
    modules = [unused_modules({"recipe": {"optimizer": name}}) for name in OPTIMIZERS]
    # Each is used by some optimizer, adapters' by the recipes that train one.
    assert frozenset.intersection(*modules) == {"ablation.interventions.adapters"}
    adapted = {"optimizer": OPTIMIZERS[0], "adapter": {"kind": "lora"}}
    assert "ablation.interventions.adapters" not in unused_modules({"recipe": adapted})


def test_the_modules_of_an_optimizer_import_none_that_its_trainings_leave_out():
    every = unused_modules({"recipe": {"optimizer": "sgd"}})
    assert every
    for name in OPTIMIZERS:
        left_out = unused_modules({"recipe": {"optimizer": name}})
        for module in every - left_out:
            text = (ROOT / f"src/{module.replace('.', '/')}.py").read_text("utf-8")
            assert not [other for other in left_out if f"{other} import" in text], module
