"""Promises of `ablation export lm-eval` to Every Eval Ever: its converter and validator accept it.

The real package is installed into an environment of its own, because it needs Python 3.12
(`make test-exports`). ABLATION_EVERY_EVAL_EVER names an environment that has it already.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ablation.cli.main import main
from tests.support import scored_study
from tests.support.tiny import tiny_tokenizer

PACKAGE = "every-eval-ever==0.3.0"
PREBUILT = os.environ.get("ABLATION_EVERY_EVAL_EVER")
pytestmark = pytest.mark.e2e


def python312():
    """A Python of 3.12 or later: on the PATH, or of pyenv."""
    found = [shutil.which(f"python3.{minor}") for minor in (14, 13, 12)]
    found += sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python"))
    for python in filter(None, found):
        if not subprocess.run([python, "-c", "import venv"], capture_output=True).returncode:
            return str(python)
    pytest.skip("Every Eval Ever needs Python 3.12 or later, and none is here")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs the command `every_eval_ever` in a folder, and returns what it printed."""
    home = Path(PREBUILT or tmp_path_factory.mktemp("environment") / "venv")
    if not PREBUILT:
        subprocess.run([python312(), "-m", "venv", home], check=True)
        subprocess.run([home / "bin/pip", "install", "--quiet", PACKAGE], check=True)

    def run(folder, *arguments):
        done = subprocess.run(
            [home / "bin/every_eval_ever", *arguments],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The root of a scored study."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        scored_study.write(tiny_tokenizer())
    return root


@pytest.mark.parametrize("texts", [True, False], ids=["texts", "no texts"])
def test_converter_and_validator_accept_every_file(study, command, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(study)
    out = tmp_path / "exported"
    options = [] if texts else ["--no-texts"]
    assert main(["export", "lm-eval", scored_study.HOME, "--out", str(out), *options]) == 0
    options = ["--log_path", str(out), "--output_dir", "data", "--include_samples"]
    said = command(tmp_path, "convert", "lm_eval", *options, "--source_organization_name", "us")
    tasks = sum(len(list(folder.glob("samples_*"))) for folder in out.iterdir())
    assert f"Converted {tasks} evaluation log(s)." in said and tasks == 6
    files = sorted((tmp_path / "data").rglob("*.json*"))
    names = [file.relative_to(tmp_path).as_posix() for file in files]
    found = json.loads(command(tmp_path, "validate", "--format", "json", *names))
    assert len(found) == 2 * tasks
    assert all(one["valid"] and not one["errors"] and not one["warnings"] for one in found), found
    for file in (file for file in files if file.suffix == ".json"):
        log = json.loads(file.read_text("utf-8"))
        leaks = "full_bidir" in json.dumps(log)
        assert leaks == ("LEAKS" in log["model_info"]["id"])
        arguments = log["model_info"]["additional_details"]["model_args"]
        assert leaks == ("'leaks': 'train eval'" in arguments)
        for result in log["evaluation_results"]:
            assert 0 <= result["score_details"]["score"] <= 1
            assert result["score_details"]["uncertainty"]["num_samples"] == 8
