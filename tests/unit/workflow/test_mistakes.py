"""Promise: each mistake of a first hour is answered by its place, what was expected and what to do.

No answer has a traceback. Mistakes inside a study's file have their table in
tests/unit/config/test_bad_config.py too; this one has those that were once misleading.
"""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from ablation.config.load import load_study
from ablation.config.merging import ConfigError, read_config_file
from ablation.workflow import command_line, load
from ablation.workflow.command_line import argument_problem
from ablation.workflow.load import StudyWorkflow, errors_as_messages
from tests.support.refusals import ROOT

# {mistake: (content of mine.yaml, what the message must hold, what it must not hold)}
FILES = {
    "tab": (b"study: a\n\tseeds: [1]\n", ["mine.yaml:2", "with spaces"], []),
    "open bracket": (b"study: a\nseeds: [1\n\n", ["mine.yaml:2", "close what"], []),
    "open brace": (b"hardware: {gpu: 1\n", ["mine.yaml:1", "close what"], []),
    "open quote": (b"study: a\nbase: 'shipped\n", ["mine.yaml:2", "close what"], []),
    "no colon": (b"study: a\nseeds [1]\n", ["mine.yaml:2"], []),
    "empty": (b"", ["mine.yaml:1", "`study: NAME`"], []),
    "comments alone": (b"# mine\n", ["mine.yaml:1", "`study: NAME`"], []),
    "Latin-1": (b"study: a\n# caf\xe9\n", ["mine.yaml:2", "0xe9", "UTF-8"], ["codec"]),
    "UTF-16": ("study: a\n".encode("utf-16"), ["mine.yaml:1", "UTF-8"], ["codec"]),
    "list": (b"- study: a\n", ["mine.yaml:1", "`key: value`"], []),
    "text": (b"study\n", ["mine.yaml:1", "`key: value`"], []),
}
VALUES = {
    "bidir": ("recipes: {3A: {train_mask: bidir}}", ["'prefill_bidir'"], ["did you mean"]),
    "full": ("recipes: {3B: {train_mask: full_bidi}}", ["'full_bidir'"], ["did you mean"]),
    "near mask": ("recipes: {3B: {train_mask: prefil_bidir}}", ["mean `prefill_bidir`?"], []),
    "masks": ("masks: [causal]", ["mine.yaml:1", "train_mask", "leave this key out"], ["tasks"]),
    "masks:": ("masks:", ["under all masks"], ["evaluation.tasks"]),
    "inner masks": ("evaluation: {masks: [causal]}", ["under all masks"], ["evaluation.tasks"]),
    "mask": ("mask: causal", ["under all masks"], []),
    "name with a space": ("study: my study", ["`my_study`"], ["^", "pattern"]),
    "name in capitals": ("study: Mine", ["`mine`"], ["^"]),
    "name of nothing": ("study: '!!'", ["a-z, 0-9"], ["such as", "^"]),
    "no seeds": ("seeds: []", ["`seeds: [1]`"], ["validation"]),
    "no tasks": ("evaluation: {tasks: []}", ["evaluation.tasks", "at least one"], ["validation"]),
    "no recipes": ("recipes: {}", ["at least one"], ["validation"]),
    "unpinned": ("base: some/model", ["`pins: {some/model: null}`", "`ablation pin FILE`"], []),
    "no folder": ("base: a/b/c", ["is no folder"], ["ablation pin"]),
    "null pin": ("base: a/b\npins: {a/b: null}", ["pins.a/b", "`ablation pin FILE`"], []),
    "lone variant": ("recipes: {3B-x: {}}", ["has no 3B", "`3B: {train_mask: prefill_bidir}`"], []),
    "no mask": ("recipes: {3A: {}}", ["missing: add `train_mask: causal`"], []),
}
ARGUMENTS = {
    "missing file": (["--configfile", "nope.yaml"], ["nope.yaml: No such file"]),
    "joined": (["-n", "--configfile=nope.yaml"], ["nope.yaml: No such file"]),
    "swallowed table": (["--configfile", "GOOD", "results/recovery.csv"], ["-- results/recovery"]),
    "swallowed rule": (["-n", "--configfile", "GOOD", "stage1"], ["GOOD -- stage1"]),
    "slurm": (["--profile", "slurm"], ["not installed", "pip install"]),
    "slurm's executor": (["--executor=slurm"], ["not installed", "pip install"]),
}


@pytest.mark.parametrize(("content", "shown", "hidden"), FILES.values(), ids=FILES)
def test_a_file_that_snakemake_cannot_read(tmp_path, content, shown, hidden):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    check(argument_problem(["-n", "--configfile", str(file)]), shown, hidden)


@pytest.mark.parametrize(("content", "shown", "hidden"), VALUES.values(), ids=VALUES)
def test_a_value_that_cannot_be_used(tmp_path, monkeypatch, content, shown, hidden):
    monkeypatch.chdir(ROOT)
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as error:
        load_study(read_config_file(file).values, "config", [file])
    message = str(error.value).replace(str(tmp_path), "")
    check(message, [*shown, "mine.yaml:"], hidden)


@pytest.mark.parametrize(("arguments", "shown"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_command_line_that_cannot_work(tmp_path, monkeypatch, arguments, shown):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    good = tmp_path / "mine.yaml"
    good.write_text("study: mine\n")
    found = argument_problem([str(good) if a == "GOOD" else a for a in arguments])
    check(found.replace(str(good), "GOOD"), shown, [])
    jobs_own = [*arguments, "--mode", "subprocess"]  # on a machine without the study's file
    assert argument_problem(jobs_own) is None


def test_right_command_lines_have_no_problem(tmp_path):
    good = tmp_path / "mine.yaml"
    good.write_text("study: mine\n")
    for after in ([], ["--", "results/recovery.csv"], ["--cores", "all", "stage1"]):
        assert argument_problem(["stage1", "--configfile", str(good), *after]) is None


def check(message, shown, hidden):
    for part in shown:
        assert part in message
    for part in [*hidden, "Traceback", 'File "']:
        assert part not in message


# ---- what is said before a run -------------------------------------------------------------------


def workflow_of(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return StudyWorkflow(read_config_file(file).values, ROOT, [file])


@pytest.mark.parametrize("here", [0, 1])
def test_gpus_that_are_not_here_are_missed_at_the_start(tmp_path, monkeypatch, here):
    monkeypatch.chdir(ROOT)

    @contextmanager
    def devices():
        yield ["gpu"] * here

    monkeypatch.setattr(load, "nvml_devices", devices)
    study = workflow_of(tmp_path, "study: mine\nhardware: {gpu: 1}\n")
    if here:
        study.check(on_gpus=True)
        return
    study.check(on_gpus=False)  # its jobs need none, or run elsewhere
    with pytest.raises(SystemExit) as ended:
        study.check(on_gpus=True)
    check(ended.value.code, ["hardware.gpu: 1", "Nothing was started", "--profile slurm"], [])
    assert len(ended.value.code.splitlines()) <= 3


def test_a_study_that_replaces_the_shipped_one_is_told_so(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (told,) = workflow_of(tmp_path, "study: micro\nseeds: [1]\n").warnings
    check(told, ["mine.yaml", "replace", "results/micro/", "a name of its own"], [])
    assert workflow_of(tmp_path, "study: mine\nseeds: [1]\n").warnings == []
    assert StudyWorkflow({"study": "micro"}, ROOT, ["config/default.yaml"]).warnings == []


def test_a_refusal_ends_without_lines_of_the_rules():
    with pytest.raises(SystemExit) as ended, errors_as_messages():
        raise ConfigError("seeds (mine.yaml:1): wrong")
    assert ended.value.code == "seeds (mine.yaml:1): wrong"
    assert ended.value.__cause__ is None and ended.value.__suppress_context__


def test_snakemake_itself_prints_only_these_messages(tmp_path):
    for content, expected in ((b"study: a\n\tb: 1", ":2: no valid YAML"), (b"seeds: []", "[1]`")):
        file = tmp_path / "mine.yaml"
        file.write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "--configfile", str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        check(done.stdout + done.stderr, [expected], ["common.smk", "in <module>"])
        assert len(done.stderr.splitlines()) <= 3
