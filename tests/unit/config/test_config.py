"""Promises of the configuration: what a study may leave out, how files are merged, and
that nothing generated is stale. What is refused stands in test_bad_*.py."""

import difflib
import gzip
import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import ANY

import jsonschema
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer

from ablation.config.fields import Plateau
from ablation.config.load import load_study, schema_keys
from ablation.config.merging import ConfigError, merge
from ablation.data.task_data import data_sets
from ablation.data.task_files import LM_EVAL_NAMES
from ablation.provenance.files import canonical_json
from ablation.training.early_stopping import Stops
from ablation.training.optimizers.master_weights import MasterWeights
from ablation.training.trainer_arguments import custom_optimizer, training_arguments
from ablation.vocabulary.optimizers import OPTIMIZERS
from ablation.vocabulary.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "config"
EXAMPLES = sorted(CONFIG.glob("*.yaml"))


# ---- a study -------------------------------------------------------------------------------------


def test_default_is_the_micro_study():
    study = load_study({})
    assert study.study == "micro" and study.base == "shipped" and study.hardware.gpu == 0
    assert [name for name in study.recipes if name in RECIPES] == list(RECIPES)
    assert study.controls["3B"] == "3A" and "5C" not in study.controls
    assert study.recipe("3B")["train_mask"] == "prefill_bidir"


def test_the_demo_is_a_part_of_the_micro_study_with_fewer_steps_and_evaluation_samples():
    demo, whole = load_study({"extends": "demo.yaml"}), load_study({})
    assert set(demo.seeds) < set(whole.seeds) and set(demo.recipes) < set(whole.recipes)
    less = {"max_steps": 200, "eval_samples": 40}
    finetune = whole.finetune.model_copy(update=less)
    part = {"study": demo.study, "seeds": demo.seeds, "finetune": finetune}
    kept = {name: whole.recipes[name].model_copy(update=less) for name in demo.recipes}
    kept["5A"] = kept["5A"].model_copy(update={"max_steps": whole.recipes["5A"].max_steps})
    assert demo == whole.model_copy(update=part | {"recipes": kept})


def test_typing_changes_no_value():
    """A weight of 2 that became 2.0 would make every result of the world stale."""
    world = yaml.safe_load((CONFIG / "default.yaml").read_text())["world"]
    assert canonical_json(load_study({}).world.model_dump()) == canonical_json(world)


def test_a_recipe_is_the_common_block_with_its_own_keys_on_top():
    study = load_study({"recipes": {"3A": {"train_mask": "causal", "learning_rate": 0.5}}})
    assert list(study.recipes) == ["3A"]  # replaced, not mixed with the default's
    assert study.recipe("3A")["learning_rate"] == 0.5
    assert study.recipe("3A")["max_steps"] == study.finetune.max_steps


def test_values_from_the_command_line_arrive_as_text_and_are_read_by_type():
    study = load_study(
        {
            "seeds": ["1", "2"],
            "hardware": {"threads": "2"},
            "finetune": {"learning_rate": "3e-4", "stops": {"no_learning": "null"}},
            "keep_states": "true",
        }
    )
    assert (study.seeds, study.hardware.threads, study.keep_states) == ([1, 2], 2, True)
    assert (
        study.recipe("3A")["learning_rate"] == 3e-4
        and study.recipe("3A")["stops"]["no_learning"] is None
    )


# Tasks of smollm2_needle.yaml are made by a command: tests/unit/data/test_needles.py.
@pytest.mark.parametrize(
    "file",
    [f for f in EXAMPLES if not f.stem.endswith(("_local", "_needle"))],
    ids=lambda f: f.name,
)
def test_every_shipped_config_loads_once_it_is_pinned(file):
    named = {} if file.name == "default.yaml" else {"extends": file.name}
    pins, below = {}, file.name
    while below:
        values = yaml.safe_load((CONFIG / below).read_text("utf-8"))
        pins, below = (values.get("pins") or {}) | pins, values.get("extends")
    study = load_study(named | {"pins": {name: pin or "a" * 40 for name, pin in pins.items()}})
    # Beside the results of the first study, and of the study that it adds to.
    own = {"default.yaml": "micro", "bridge.yaml": "micro", "smollm2_more.yaml": "smollm2"}
    assert study.study == own.get(file.name, file.stem)


@pytest.mark.parametrize(
    "name", ["smollm2", "smollm2_more", "smollm2_interventions", "smollm2_needle"]
)
def test_the_local_form_of_a_study_differs_in_places_alone(name):
    local = yaml.safe_load((CONFIG / f"{name}_local.yaml").read_text("utf-8"))
    places = {"base": ANY, "instructions": {"data": ANY, "count": None}}
    if name != "smollm2_needle":  # whose items are made, not copied
        places |= {"evaluation": {"data_folder": ANY}}
    own = "smollm2" if name == "smollm2_more" else name
    assert local == {"extends": f"{name}.yaml", "study": own, **places}


def test_the_real_study_trains_as_published_and_beside_that_corrected():
    pins = yaml.safe_load((CONFIG / "ministral3b.yaml").read_text("utf-8"))["pins"]
    study = load_study({"extends": "ministral3b.yaml", "pins": dict.fromkeys(pins, "a" * 40)})
    read = {*data_sets(CONFIG, study.evaluation.tasks), study.base, "yahma/alpaca-cleaned"}
    assert study.from_hub and read == {*pins}
    recipe = study.recipe("3B")
    wanted = {"max_steps": 1200, "batch_examples": 16, "learning_rate": 2e-5, "weight_decay": 0.1}
    wanted |= {"max_seq_len": 1024, "schedule": "cosine", "optimizer": "adafactor_bf16"}
    wanted |= {"eval_steps": 200, "eval_samples": 250, "max_examples": 50_000}
    assert {key: recipe[key] for key in wanted} == wanted
    assert study.instructions.count == 51_760 and len(study.seeds) == 3
    for name, control in (("3B", "3A"), ("3B-as-published", "3A-as-published")):
        assert study.controls[name] == control
    for name in ("3A-as-published", "3B-as-published"):
        wanted |= {"optimizer": "adafactor_plain", "format": "published"}
        wanted |= {"micro_batch_examples": 1}
        assert {key: study.recipe(name)[key] for key in wanted} == wanted
    for name, steps in (("3A", 1200), ("5A", 6000), ("5B", 6000), ("5C", 6500)):
        long = study.recipe(name)
        assert (long["max_steps"], long["warmup_steps"]) == (steps, round(0.03 * steps))
    assert study.recipe("5C")["max_steps"] * 16 / 50_000 == 2.08  # epochs, as published
    stops = {name: study.recipe(name)["stops"]["plateau"] for name in ("5A", "5B", "5C")}
    assert stops == {
        "5A": {"patience": 4, "min_delta": 0.003, "min_steps": 600},
        "5B": {"patience": 8, "min_delta": 0.001, "min_steps": 3000},
        "5C": None,
    }
    assert [study.recipe(name)["eval_samples"] for name in ("5A", "5B")] == [250, 500]
    assert study.recipe("3A")["stops"]["no_learning"] == {
        "after_steps": 150,
        "min_improvement": 0.08,
    }


def test_the_rehearsal_is_the_real_study_but_for_weights_texts_and_steps():
    pins = yaml.safe_load((CONFIG / "ministral3b.yaml").read_text("utf-8"))["pins"]
    real = load_study({"extends": "ministral3b.yaml", "pins": dict.fromkeys(pins, "a" * 40)})
    study = load_study({"extends": "rehearsal3b.yaml"})  # reads nothing of the hub: needs no pins
    assert study.rehearsal and not study.from_hub and set(study.recipes) == set(real.recipes)
    assert study.hardware == real.hardware and study.instructions == real.instructions
    assert study.evaluation == real.evaluation.model_copy(update={"limit": study.evaluation.limit})
    few = {"max_steps", "warmup_steps", "log_steps", "save_steps", "eval_steps", "eval_samples"}
    for name in real.recipes:
        recipe, whole = study.recipe(name), real.recipe(name)
        assert {k for k in whole if recipe[k] != whole[k]} <= few | {"stops"}
        assert recipe["max_steps"] <= 10


def test_lm_evals_own_tasks_are_known_without_importing_it():
    code = (
        "import sys; from ablation.config.load import load_study\n"
        "study = load_study({'evaluation': {'tasks': ['swag', 'mmlu']}}, pinned=False)\n"
        "print(study.evaluation.tasks)\n"
        "print('LOADED', sorted({'torch', 'lm_eval', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "['swag', 'mmlu']\nLOADED []\n", done.stderr


def test_a_plateau_is_refused_exactly_where_it_could_not_stop():
    """Against the stop itself: a held-out loss that never gets better."""
    for steps, every, patience, first in itertools.product((6, 9), (1, 2, 3), (1, 2, 4), (0, 4, 9)):
        plateau = {"patience": patience, "min_delta": 0.0, "min_steps": first}
        stops = Stops(plateau=Plateau.model_validate(plateau))
        seen = [stops.after_evaluation(step, 1.0) for step in range(every, steps + 1, every)]
        some = {"max_steps": steps, "eval_steps": every, "log_steps": 1, "warmup_steps": 1}
        some |= {"stops": {"plateau": plateau, "no_learning": None, "leak": None}}
        recipes = {"3A": {"train_mask": "causal"}}
        try:
            load_study({"finetune": some, "recipes": recipes})
        except ConfigError as refused:
            assert "plateau" in str(refused) and "plateau" not in seen, (some, seen)
        else:
            assert "plateau" in seen, (some, seen)


# ---- merging of files ----------------------------------------------------------------------------


def test_in_a_chain_of_files_the_nearest_one_wins(configs):
    (configs / "far.yaml").write_text("study: far\nhardware: {threads: 3, gpu: 2}\n")
    (configs / "near.yaml").write_text("extends: far.yaml\nstudy: near\n")
    study = load_study({"extends": "near.yaml", "hardware": {"gpu": 1}}, configs)
    assert (study.study, study.hardware.threads, study.hardware.gpu) == ("near", 3, 1)


def test_a_file_may_be_empty_or_begin_with_a_byte_order_mark(configs):
    for text in ("", "# nothing\n", "\ufeffstudy: micro\n", "extends:\n", "---\n"):
        (configs / "thin.yaml").write_text(text, encoding="utf-8")
        assert load_study({"extends": "thin.yaml"}, configs) == load_study({}, configs)


def test_exponents_are_numbers_without_a_dot_too(configs):
    (configs / "rate.yaml").write_text("finetune: {learning_rate: 2e-5}\n")
    assert load_study({"extends": "rate.yaml"}, configs).finetune.learning_rate == 2e-5


def test_two_files_of_a_study_are_refused(tmp_path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("seeds: [1]")
    with pytest.raises(ConfigError, match="one file of a study was expected.*a.yaml.*b.yaml"):
        load_study({"seeds": [1]}, CONFIG, [tmp_path / "a.yaml", tmp_path / "b.yaml"])


leaves = st.integers(0, 9) | st.none() | st.lists(st.integers(0, 9), max_size=2)
blocks = st.dictionaries(st.sampled_from("abc"), leaves, max_size=3)
mappings = st.dictionaries(st.sampled_from(["a", "b", "seeds"]), leaves | blocks, max_size=3)


@given(mappings, mappings, mappings)
def test_merging_is_associative_and_leaves_its_parts_alone(a, b, c):
    before = canonical_json([a, b])
    assert merge({}, a) == merge(a, {}) == merge(a, a) == a
    if all(_same_shape(x, y) for x, y in ((a, b), (b, c), (a, c))):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert canonical_json([a, b]) == before


def _same_shape(a, b):
    """Mappings and values never take each other's place, as in files that fit the schema."""
    if isinstance(a, dict) != isinstance(b, dict):
        return False
    return not isinstance(a, dict) or all(_same_shape(a[k], b[k]) for k in a.keys() & b.keys())


# ---- what is generated ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    import config_files

    return config_files


def assert_current(file, found, expected):
    diff = difflib.unified_diff(
        found.splitlines(), expected.splitlines(), str(file), "what `make config` writes", "", "", 1
    )
    assert found == expected, "\n".join(["run `make config`:", *diff])


GENERATED = ["config/default.yaml", "config/README.md", "config/schema.json", "docs/stages.md"]
GENERATED += ["docs/published.md"]


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_current(tool, name):
    assert_current(name, (ROOT / name).read_text("utf-8"), tool.texts()[ROOT / name])


def stored_names():
    return gzip.decompress((CONFIG / LM_EVAL_NAMES).read_bytes()).decode()


def test_names_of_tasks_are_those_of_the_installed_lm_eval():
    assert stored_names().startswith(f"{version('lm_eval')}\n"), "run `make config`"


@pytest.mark.skipif(
    os.environ.get("ABLATION_STUDY") != "whole",
    reason="make test-study reads lm_eval's 14,000 files",
)
def test_names_of_lm_evals_tasks_are_current(tool):
    assert_current(LM_EVAL_NAMES, stored_names(), tool.lm_eval_names())
    assert (CONFIG / LM_EVAL_NAMES).stat().st_size < 300_000


def test_writing_comments_leaves_values_as_they_are(tool):
    text = (CONFIG / "default.yaml").read_text("utf-8")
    bare = "\n".join(
        line.partition(" # ")[0] for line in text.splitlines() if not line.strip().startswith("# ")
    )
    assert tool.default_yaml(bare) == text
    assert yaml.safe_load(tool.default_yaml(text)) == yaml.safe_load(text)


def test_every_key_has_a_meaning_and_a_default():
    default = yaml.safe_load((CONFIG / "default.yaml").read_text("utf-8"))
    for path, part in schema_keys():
        if "<name>" in path or path == ("extends",):
            continue
        assert part["description"], path
        value = default
        for key in path:
            if value is not None:  # a stop that is off
                assert key in value, path
                value = value[key]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.name)
def test_the_schema_for_editors_takes_what_the_models_take(file):
    validator = jsonschema.Draft202012Validator(json.loads((CONFIG / "schema.json").read_text()))
    content = yaml.safe_load(file.read_text())
    assert not list(validator.iter_errors(content))
    assert list(validator.iter_errors(content | {"studdy": 1}))
    assert list(validator.iter_errors(content | {"hardware": {"gpu": -1}}))
    assert list(validator.iter_errors(content | {"recipes": {"3A": {"train_mask": "none"}}}))


# ---- closed sets hold only what works ------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_a_bfloat16_weight(tmp_path, name):
    rate = 1e-2 if name == "adafactor_plain" else 1e-3  # which would round 1e-3 away
    study = load_study({"finetune": {"optimizer": name, "learning_rate": rate}})
    recipe = study.recipes["3A"]
    micro_batch = recipe.micro_batch_examples
    arguments = training_arguments(recipe, 1, study.hardware, tmp_path, micro_batch)
    weight = torch.ones(4, 4, dtype=torch.bfloat16, requires_grad=True)
    if custom_optimizer(recipe):
        kind, options = custom_optimizer(recipe)
        optimizer = kind([weight], **options)
    else:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = MasterWeights(kind([weight], **options))
    for _ in range(50):
        weight.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (weight < 1).all()
