"""Promises of resumable states: a half-written one is never used, only the newest two stay."""

import pytest

from ablation.states import complete_states, newest_state, seal


def save(home, step, whole=True):
    folder = home / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if whole:
        seal(folder)
    return folder


def test_no_folder_is_no_state(tmp_path):
    assert newest_state(tmp_path / "nowhere") is None


def test_the_newest_whole_state_is_taken_and_half_written_ones_go(tmp_path):
    save(tmp_path, 100)
    kept = save(tmp_path, 900)
    half = save(tmp_path, 1000, whole=False)
    assert newest_state(tmp_path) == kept and not half.exists()


def test_steps_are_numbers_not_text(tmp_path):
    save(tmp_path, 900)
    assert newest_state(tmp_path) != save(tmp_path, 1000)
    assert newest_state(tmp_path).name == "checkpoint-1000"


def test_only_the_newest_two_stay(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    assert [s.name for s in complete_states(tmp_path)] == ["checkpoint-30", "checkpoint-40"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_removal_cut_off_in_the_middle_leaves_no_state(tmp_path, monkeypatch):
    save(tmp_path, 10), save(tmp_path, 20)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("ablation.states.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 30)
    monkeypatch.undo()
    assert [s.name for s in complete_states(tmp_path)] == ["checkpoint-20", "checkpoint-30"]
    assert newest_state(tmp_path).name == "checkpoint-30"
    assert not (tmp_path / "checkpoint-10").exists()
