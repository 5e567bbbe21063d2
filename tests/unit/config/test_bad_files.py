"""Promises about bad YAML files of a study or a task: they are refused with file and line."""

import pytest
import yaml

from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from tests.support.refusals import refusal

FILES = {
    "broken YAML": ("study: a\nhardware: {gpu: 1\n", "bad.yaml:2", "no valid YAML"),
    "tab": ("hardware:\n\tgpu: 1", "bad.yaml:2", "with spaces, not with tabs"),
    "list": ("- study", "bad.yaml:1", "holds a list", "`key: value` lines"),
    "sentence": ("study", "bad.yaml:1", "holds 'study'"),
    "two documents": ("study: a\n---\nstudy: b", "bad.yaml:2", "no valid YAML"),
    "object": ("study: !!python/name:os.system x", "bad.yaml:1", "no valid YAML"),
    "date that is none": ("study: 2024-13-40", "bad.yaml", "month"),
    "circle without end": ("world: &w {items: *w}", "bad.yaml"),
    "key twice": (
        "finetune:\n  max_steps: 50\n  log_steps: 10\n  max_steps: 60",
        "finetune.max_steps",
        "bad.yaml:4",
        "first at",
        "bad.yaml:2",
        "remove one",
    ),
    "block twice": ("seeds: [1]\nseeds: [2]", "seeds", "bad.yaml:2", "twice"),
    "extends nothing": ("extends: nowhere.yaml", "bad.yaml:1", "nowhere.yaml was not found"),
    "extends itself": ("study: a\nextends: bad.yaml", "bad.yaml:2", "in a circle"),
}


@pytest.mark.parametrize("text, fragments", [(v[0], v[1:]) for v in FILES.values()], ids=FILES)
def test_a_file_that_cannot_be_read(configs, text, fragments):
    message = refusal(configs, text)
    assert all(fragment in message for fragment in fragments), message


def test_bytes_that_are_no_text(configs):
    (configs / "bad.yaml").write_bytes(b"study: \xff")
    with pytest.raises(ConfigError, match=r"bad\.yaml:1: no text in UTF-8"):
        load_study({"extends": "bad.yaml"}, configs)


def test_an_error_names_its_file_and_line_in_a_chain_of_files(configs):
    (configs / "far.yaml").write_text("\n\nhardware: {gpus: 1}\n")
    (configs / "near.yaml").write_text("extends: far.yaml\nfinetune:\n  lr_schedule: x\n")
    (configs / "a.yaml").write_text("extends: b.yaml")
    (configs / "b.yaml").write_text("\nextends: a.yaml")
    with pytest.raises(ConfigError) as error:
        load_study({"extends": "near.yaml", "seed": "3"}, configs)
    lines = str(error.value).splitlines()
    assert any("hardware.gpus" in line and "far.yaml:3" in line for line in lines)
    assert any("finetune.lr_schedule" in line and "near.yaml:3" in line for line in lines)
    assert any("seed (--configfile/--config)" in line for line in lines)
    with pytest.raises(ConfigError, match=r"b\.yaml:2: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_study({"extends": "a.yaml"}, configs)


def test_an_error_in_a_file_of_the_command_line_names_its_line(configs):
    """Snakemake merges the files of --configfile into one mapping, so they are read again."""
    file = configs / "mine.yaml"
    file.write_text("study: mine\nhardware: {gpu: -1}\nstudy: mine\n")
    merged = yaml.safe_load(file.read_text()) | {"seeds": ["1", "x"]}
    with pytest.raises(ConfigError) as error:
        load_study(merged, configs, [file])
    message = str(error.value)
    assert f"hardware.gpu ({file}:2)" in message
    assert f"study ({file}:3): " in message and "twice" in message
    assert "seeds[1] (--configfile/--config): 'x' found" in message and "seeds[0]" not in message
    with pytest.raises(ConfigError, match=r"seeds\[1\] \(--configfile/--config\)"):
        load_study({"seeds": ["1", "x"]}, configs, [configs / "left at home.yaml"])


# ---- task files ----------------------------------------------------------------------------------

TASK_FILES = {
    "group": (
        "mine.yaml",
        "group: mine\ntask: [micro_piqa]",
        "mine.yaml has `group: mine`",
        "name its members in evaluation.tasks",
    ),
    "tag": ("mine.yaml", "task: mine\ntag: ours", "mine.yaml has `tag: ours`", "remove it"),
    "include": (
        "mine.yaml",
        "task: mine\ninclude: micro_piqa.yaml",
        "has `include: micro_piqa.yaml`",
        "copy the included lines into it",
    ),
    "name of another task": (
        "a.yaml",
        "task: micro_piqa",
        "a.yaml has `task: micro_piqa`, but `task: a` was expected",
        "rename one of them",
    ),
    "quoted name of lm-eval's": (
        "a.yaml",
        'task: "swag"',
        "`task: swag`, but `task: a` was expected",
    ),
    "no name": (
        "a.yaml",
        "output_type: multiple_choice",
        "`task: None`, but `task: a` was expected",
    ),
    "list": ("a.yaml", "- task: a", "a.yaml is no task in YAML", "correct or remove it"),
    "broken YAML": ("swag.yaml", "task: swag\ndoc_to_text: {", "swag.yaml is no task in YAML"),
}


@pytest.mark.parametrize(
    "name, text, fragments", [(n, t, rest) for n, t, *rest in TASK_FILES.values()], ids=TASK_FILES
)
def test_a_task_file_that_would_not_be_hashed_is_refused(configs, name, text, fragments):
    (configs / "tasks" / name).write_text(text)
    message = refusal(configs, "study: a")
    assert all(part in message for part in ("evaluation.tasks (", *fragments)), message
    assert len(message.splitlines()) == 2, message


@pytest.mark.parametrize(
    "text, found",
    [
        ("task: mine\nrepeats: 2", "2 texts an item"),  # lm-eval's default is generate_until
        ("task: mine\noutput_type: loglikelihood", "loglikelihood"),
        (
            "task: mine\noutput_type: multiple_choice\nprocess_results: !function utils.f",
            "process_results",
        ),
    ],
)
def test_a_task_of_this_project_that_cannot_be_scored_is_refused(configs, text, found):
    (configs / "tasks/mine.yaml").write_text(text)
    assert "evaluation.tasks" not in str(
        load_study({}, configs)
    )  # the default study does not use it
    message = refusal(configs, "evaluation: {tasks: [mine]}")
    assert "evaluation.tasks[0]" in message and found in message, message
