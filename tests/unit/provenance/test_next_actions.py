"""Promise: each command of a message names a target that there is, and the file of its study."""

import subprocess
import sys

import pytest

from ablation.provenance.next_actions import command_for, has_rule
from ablation.provenance.tables import InvalidTable, read_table
from tests.support.refusals import ROOT

MAKE = "snakemake --cores all --force"
COMMANDS = {
    "results/micro/recovery.csv": f"{MAKE} results/micro/recovery.csv",
    "/a/results/b/results/micro/x/manifest.json": f"{MAKE} results/micro/x/manifest.json",
    "results/mine/x/m.json": f"{MAKE} results/mine/x/m.json --configfile config/my_study.yaml",
    "results/two/x/m.json": f"{MAKE} results/two/x/m.json --configfile config/two.yaml",
    "results/quoted/m.json": f"{MAKE} results/quoted/m.json --configfile config/third.yaml",
    "results/none/m.json": f"{MAKE} results/none/m.json --configfile FILE  # FILE has the line "
    "`study: none`",
    "results/recovery.csv": f"{MAKE} results/recovery.csv",
    "results/micro/$(id).csv": f"{MAKE} 'results/micro/$(id).csv'",
    "results/a;id/m.json": f"{MAKE} 'results/a;id/m.json' --configfile FILE  # FILE has the line "
    "`study: 'a;id'`",
    "resources/a b.json": "git checkout -- 'resources/a b.json'",
    "x;id": f"{MAKE} 'x;id'",
    "/a/resources/micro/manifest.json": "git checkout -- resources/micro/manifest.json",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    studies = {"default": "micro", "my_study": "mine", "a_two": "two", "two": "two"}
    studies["third"] = '"quoted"'
    for file, study in studies.items():
        (tmp_path / f"config/{file}.yaml").write_text(f"# a study\nstudy: {study}\n")
    return tmp_path


@pytest.mark.parametrize(("path", "command"), COMMANDS.items())
def test_the_command_for_a_path(root, path, command):
    assert command_for(path) == command


def test_what_is_no_file_of_a_study_is_passed_over(root):
    (root / "config/.#mine.yaml").symlink_to("somebody@host.1")  # an editor's lock
    (root / "config/folder.yaml").mkdir()
    assert command_for("results/two/x/m.json").endswith("config/two.yaml")


def test_the_copy_of_a_table_is_made_by_the_file_of_its_study(root):
    made = command_for(root / "results/recovery.csv", study="mine")
    assert made == f"{MAKE} results/recovery.csv --configfile config/my_study.yaml"


@pytest.mark.parametrize("name", ["results/nope.csv", "results/mine/nope.csv", "nope.csv"])
def test_a_table_without_a_rule_is_never_to_be_made_again(root, name):
    (root / "results/mine").mkdir(parents=True)
    (root / "results/mine/flips.csv").write_text("study\n")
    with pytest.raises(InvalidTable) as error:
        read_table(name, ["study"])
    message = str(error.value)
    assert "snakemake" not in message and f"{name} was not found" in message
    assert ("results/mine/flips.csv" in message) == name.startswith("results/mine")


def test_tables_with_a_rule_are_made_again(root):
    for name in ("results/recovery.csv", "results/mine/flips.csv", "results/m/bridge/claims.csv"):
        assert has_rule(name) and has_rule(root / name)
        with pytest.raises(InvalidTable, match=f"{MAKE} {name}"):
            read_table(name, ["study"])


def test_snakemake_has_the_targets_of_such_commands():
    command = command_for(ROOT / "results/demo/flips.csv").split()
    assert command[-1] == "config/demo.yaml"
    command = [sys.executable, "-m", *command, "-n", "--quiet", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("made", [False, True])
def test_a_sample_of_a_study_that_is_not_here_is_refused_before_torch_is_imported(root, made):
    if made:
        (root / "results/mine").mkdir(parents=True)
    code = "import sys; from ablation.cli.main import main; code = main(); "
    code += "sys.exit(9 if 'torch' in sys.modules else code)"
    command = [sys.executable, "-c", code, "sample", "--study", "mine"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert ("config/my_study.yaml" if made else "was not found") in done.stderr
