"""Promises of runs in a folder of the user's: links stand for what the repository ships."""

import subprocess
import sys
from pathlib import Path

import pytest

from ablation.workflow.elsewhere import SHIPPED, WrongPlace, link_shipped

ROOT = Path(__file__).resolve().parents[3]
MODULE = f"""
configfile: "mine.yaml"

module ablation:
    snakefile: "{ROOT}/Snakefile"
    config: config

use rule * from ablation as ablation_*
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_links_are_made_once_beside_what_the_user_has(elsewhere):
    (elsewhere / "config").mkdir()
    (elsewhere / "config/mine.yaml").write_text("study: mine\n")
    for _ in range(2):
        link_shipped(ROOT)
    for name in SHIPPED:
        assert Path(name).is_symlink() and Path(name).samefile(ROOT / name)
    assert (elsewhere / "config/mine.yaml").read_text() == "study: mine\n"


def test_nothing_is_linked_in_the_repository(monkeypatch, elsewhere):
    for name in SHIPPED:
        (elsewhere / name).mkdir(parents=True)
    link_shipped(elsewhere)
    assert not any(path.is_symlink() for path in elsewhere.rglob("*"))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_stands_there_already_is_refused_and_stays(elsewhere, name):
    (elsewhere / name).mkdir(parents=True)
    with pytest.raises(WrongPlace, match=f"{name} is there, where the workflow needs a link"):
        link_shipped(ROOT)
    (elsewhere / name).rmdir()
    (elsewhere / name).symlink_to("nowhere")
    with pytest.raises(WrongPlace, match="Rename yours"):
        link_shipped(ROOT)


def test_a_workflow_that_is_no_local_clone_is_refused():
    with pytest.raises(WrongPlace, match="Clone the repository"):
        link_shipped(Path("https://example.org/ablation"))


def test_the_workflow_is_a_module_of_another_one(elsewhere):
    """With names of rules, paths and a study of the user's own."""
    (elsewhere / "Snakefile").write_text(MODULE)
    (elsewhere / "mine.yaml").write_text("study: mine\nextends: demo.yaml\n")
    target = "results/mine/stage1_baseline/metrics.json"
    command = [sys.executable, "-m", "snakemake", "-n", target]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ablation_stage1_metrics" in done.stdout + done.stderr
