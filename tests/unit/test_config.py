"""Promises of the configuration: every fault is found at load and named; order never matters."""

import shutil
from pathlib import Path

import pytest
import yaml

from ablation.config import ConfigError, load_study, merge


def test_default_is_the_micro_study():
    study = load_study({})
    assert study.study == "micro" and study.base == "shipped" and study.hardware.gpu == 0
    assert list(study.recipes) == ["3A", "3B", "3B-leaky"]
    assert study.recipe("3B")["train_mask"] == "prefill_bidir"


def test_a_recipe_is_the_common_block_with_its_own_keys_on_top():
    study = load_study({"recipes": {"3A": {"train_mask": "causal", "learning_rate": 0.5}}})
    assert list(study.recipes) == ["3A"]  # replaced, not mixed with the default's
    assert study.recipe("3A")["learning_rate"] == 0.5
    assert study.recipe("3A")["max_steps"] == study.finetune["max_steps"]


def test_values_from_the_command_line_arrive_as_text_and_are_read_by_type():
    study = load_study({"hardware": {"threads": "2"}, "finetune": {"learning_rate": "3e-4"}})
    assert study.hardware.threads == 2 and study.recipe("3A")["learning_rate"] == 3e-4


@pytest.mark.parametrize(
    "overrides, named",
    [
        ({"studdy": "x"}, r"studdy: unknown key, did you mean `study`"),
        ({"hardware": {"thread": 2}}, r"hardware\.thread: unknown key, did you mean `threads`"),
        ({"hardware": {"dtype": "float16"}}, r"hardware\.dtype"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "named twice"),
        ({"recipes": {"3C": {"train_mask": "causal"}}}, "3C"),
        ({"recipes": {"3A": {}}}, r"recipes\.3A\.train_mask"),
        ({"recipes": {"3A": {"train_mask": "none"}}}, r"recipes\.3A\.train_mask"),
        ({"recipes": {"3A": {"train_mask": "causal", "lr": 1}}}, r"recipes\.3A\.lr: unknown key"),
        ({"finetune": {"max_steps": 0}}, "max_steps"),
        ({"finetune": {"batch_examples": 24, "micro_batch_examples": 5}}, "no multiple of micro"),
        ({"finetune": {"save_steps": 15, "log_steps": 10}}, "no multiple of log_steps"),
        ({"finetune": {"stops": {"plateau": {"patience": 1}}}}, "min_delta"),
        ({"evaluation": {"metric": "accuracy"}}, r"evaluation\.metric"),
        ({"evaluation": {"tasks": ["a", "a"]}}, "named twice"),
        ({"evaluation": {"protocol": "published"}}, "micro_piqa.* cannot be scored under"),
        ({"evaluation": {"tasks": ["published_piqa"]}}, "scored under `protocol: lm_eval`"),
        ({"evaluation": {"protocol": "seed"}}, r"evaluation\.protocol"),
        ({"study": "../elsewhere"}, "study"),
        ({"extends": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_fault_is_refused_by_its_key(overrides, named):
    with pytest.raises(ConfigError, match=named):
        load_study(overrides)


def test_all_faults_come_in_one_message():
    with pytest.raises(ConfigError) as error:
        load_study({"studdy": 1, "hardware": {"dtype": "x"}, "seeds": []})
    assert all(key in str(error.value) for key in ("studdy", "hardware.dtype", "seeds"))


def test_a_chain_of_files_is_laid_nearest_last(tmp_path):
    shutil.copy("config/default.yaml", tmp_path)
    (tmp_path / "middle.yaml").write_text("study: middle\nhardware: {threads: 3}\n")
    study = load_study({"extends": "middle.yaml", "hardware": {"gpu": 1}}, tmp_path)
    assert (study.study, study.hardware.threads, study.hardware.gpu) == ("middle", 3, 1)


def test_files_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_study({"extends": "a.yaml"}, tmp_path)


def test_merge_leaves_both_mappings_as_they_were():
    base, over = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}
    assert merge(base, over) == {"a": {"b": 3, "c": 2}}
    assert base == {"a": {"b": 1, "c": 2}} and over == {"a": {"b": 3}}


def test_every_shipped_config_loads():
    for file in Path("config").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        load_study({} if file.name == "default.yaml" else content)
