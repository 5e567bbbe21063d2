"""Promises of the command line: fast help in whole sentences, errors as messages."""

import argparse
import subprocess
import sys

import pytest

from ablation.cli.main import COMMANDS, build_parser, main
from ablation.cli.options import CommandFailed, column_and_value, number, report_errors

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


def parsers():
    """{name of a command: its parser}."""
    (commands,) = [
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return commands.choices


def test_every_module_of_a_command_adds_the_command_of_its_name():
    assert list(parsers()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_help_is_made_of_whole_sentences(name):
    parser = parsers()[name]
    helps = [action.help for action in parser._actions if "-h" not in action.option_strings]
    for text in (parser.description, *helps):
        assert text[0].isupper() and text.endswith("."), text
    assert parser.format_help()


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
    assert done.returncode == 2 and "usage: ablation [-h] COMMAND" in done.stderr


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
        with pytest.raises(argparse.ArgumentTypeError, match="of at least 0 was expected"):
            number(0)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="above 0 was expected"):
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
