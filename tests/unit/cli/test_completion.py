"""Promises of shell completion: a script for each shell, which completes commands and studies."""

import shutil
import subprocess

import pytest

from ablation.cli.main import COMPLETE, main


@pytest.mark.parametrize(
    "shell, registered", [("bash", "complete -o nosort -F"), ("zsh", "#compdef ablation")]
)
def test_each_shell_gets_a_script(shell, registered, monkeypatch, capsysbinary):
    monkeypatch.setenv(COMPLETE, f"{shell}_source")
    assert main([]) == 0
    script = capsysbinary.readouterr().out.decode()
    assert registered in script and f"{COMPLETE}={shell}_complete" in script


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    "typed, found",
    [
        ("ablation ver", {"verify"}),
        ("ablation verify --rec", {"--recompute"}),
        ("ablation verify --study mi", {"micro", "mine"}),
        ("ablation dose --mask full", {"full_bidir"}),
    ],
)
def test_commands_options_and_studies_are_completed(
    shell, typed, found, tmp_path, monkeypatch, capsysbinary
):
    for name in ("micro", "other"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "manifest.json").write_text("{}")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/mine.yaml").write_text("study: mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(COMPLETE, f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert main([]) == 0
    lines = capsysbinary.readouterr().out.decode().split("\n")
    values = {line.partition(",")[2] for line in lines} if shell == "bash" else set(lines[1::3])
    assert values - {""} == found


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_takes_the_script(shell, monkeypatch, capsysbinary, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    monkeypatch.setenv(COMPLETE, f"{shell}_source")
    main([])
    file = tmp_path / "script"
    file.write_bytes(capsysbinary.readouterr().out)
    monkeypatch.delenv(COMPLETE)
    subprocess.run([shell, "-n", str(file)], check=True)
    if shell == "bash":
        asked = f". {file}; complete -p ablation"
        done = subprocess.run([shell, "-c", asked], capture_output=True, text=True, check=True)
        assert "_ablation_completion ablation" in done.stdout
