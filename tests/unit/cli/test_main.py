"""Promises of the command line: fast help in whole sentences, errors as messages."""

import os
import shlex
import subprocess
import sys
from importlib.metadata import version

import click
import pytest

from ablation.cli.main import COMMANDS, main
from ablation.cli.options import CommandFailed, column_and_value, number, report_errors

BY_NAME = {command.name: command for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_is_made_of_whole_sentences_and_ends_with_examples_that_can_be_read(command, capsys):
    helps = [param.help for param in command.params]
    for text in (command.help, command.short_help, *helps):
        assert text and text[0].isupper() and text.rstrip()[-1] in ".?", text
    assert main([command.name, "--help"]) == 0
    told = capsys.readouterr().out
    assert 2 <= len(command.examples) <= 3
    for example in command.examples:
        assert f"\n  {example}\n" in told  # in one line, as it may be copied
        program, name, *words = shlex.split(example)
        assert (program, name) == ("ablation", command.name)
        command.make_context(name, words)


def test_a_study_is_chosen_by_the_same_options_everywhere():
    # a model, machines, several studies, files of no study, a new study
    without = {"check", "needle", "reap", "worlds", "studies", "compare", "init"}
    for command in COMMANDS:
        found = {param.name: param for param in command.params}
        assert ({"configfile", "study"} <= set(found)) == (command.name not in without)
        for name in {"configfile", "study"} & set(found):
            ours, same = found[name], next(p for p in BY_NAME["plan"].params if p.name == name)
            assert (ours.opts, ours.metavar, ours.help) == (same.opts, same.metavar, same.help)


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ablation {version('ablation-studies')}\n"


@pytest.mark.parametrize(
    "words, meant", [(["tabel"], "table"), (["table", "--studdy", "x"], "--study")]
)
def test_a_mistyped_name_is_answered_with_the_one_that_was_meant(words, meant, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    told = capsys.readouterr().err
    assert "Did you mean" in told and f"'{meant}'" in told


def test_an_option_takes_all_words_up_to_the_next_option():
    words = "--mask causal prefill_bidir --prompt Eve --device cpu --mask full_bidir --seed 3 4"
    found = BY_NAME["sample"].make_context("sample", words.split()).params
    assert found["mask"] == ("causal", "prefill_bidir", "full_bidir")
    assert (found["prompt"], found["device"], found["seed"]) == (("Eve",), "cpu", (3, 4))
    words = ["--config", "a=1", "b=-2", "--", "stage3", "x"]
    found = BY_NAME["plan"].make_context("plan", words).params
    assert (found["config"], found["targets"]) == (("a=1", "b=-2"), ("stage3", "x"))


def test_the_end_of_an_input_is_no_ctrl_c(monkeypatch):
    """click itself would report the EOFError of a command as an interruption."""

    def cut(*_):
        raise EOFError

    monkeypatch.setattr("ablation.lineage.reproduce.reproduce", cut)
    with pytest.raises(EOFError):
        main(["reproduce", "recovery"])


def test_a_reader_that_has_ended_gets_no_traceback():
    """As in `ablation trace ... | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ablation", "table", "--help"],
        stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_loads_no_heavy_library():
    code = (
        "import sys\nfrom ablation.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'pandas', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED []\n") and "COMMAND" in done.stdout


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "ablation"], capture_output=True, text=True)
    assert done.returncode == 2 and "Usage: ablation [OPTIONS] COMMAND" in done.stderr


def test_an_expected_error_is_a_message_and_any_other_is_raised(capsys):
    with pytest.raises(CommandFailed) as failed, report_errors(ValueError, status=2):
        raise ValueError("study.yaml: no such file")
    assert failed.value.status == 2
    assert capsys.readouterr() == ("", "study.yaml: no such file\n")
    with pytest.raises(KeyError), report_errors(ValueError):
        raise KeyError


def test_numbers_are_finite_and_within_their_bound():
    assert number(0)("0") == 0 and number(0, exclusive=True)("0.5") == 0.5
    for text in ("-1", "nan", "inf"):
        with pytest.raises(click.BadParameter, match="of at least 0 was expected"):
            number(0)(text)
    with pytest.raises(click.BadParameter, match="above 0 was expected"):
        number(0, exclusive=True)("0")


def test_a_row_is_selected_by_columns_and_values(capsys):
    assert column_and_value("recipe=3B=x") == ("recipe", "3B=x")
    with pytest.raises(SystemExit):
        main(["trace", "recovery.csv", "--column", "gain", "--where", "recipe"])
    assert "'recipe': COLUMN=VALUE was expected" in capsys.readouterr().err


def test_an_error_cannot_control_the_terminal(capsys):
    with pytest.raises(CommandFailed), report_errors(ValueError):
        raise ValueError("the hub answered \x1b]0;owned\x07\x9b2J\nand\tno more")
    written = "the hub answered \\x1b]0;owned\\x07\\x9b2J\nand\tno more\n"
    assert capsys.readouterr().err == written
