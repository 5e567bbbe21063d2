"""Promises of `ablation pin`: each repository is looked up once, and only its pin is written."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.cli.main import main
from ablation.cli.pin_file import pin, with_pin
from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from ablation.data import hub
from tests.support.fake_hub import FakeHub

A, B = "a" * 40, "0123456789" * 4
WHERE = {
    "null": "pins:\n  x/y: null # why\n  o/p: ~\n",
    "tilde": "pins:\n  x/y: ~\n",
    "nothing": "pins:\n  x/y:\n  o/p: null\n",
    "nothing, commented": "pins:\n  x/y: # why\n",
    "nothing, at the end": "pins:\n  x/y:",
    "branch": "# top\npins: # all of them\n    x/y:   refs/convert/parquet  # why\nseeds: [1]\n",
    "flow": "pins: {x/y: null, o/p: null} # why\n",
    "quoted": 'pins:\n  "x/y": "main"\n',
    "absent from the block": "pins:\n  # first\n  o/p: null\nseeds: [1]\n",
    "absent from the flow": "pins: {o/p: null}\n",
    "empty flow": "pins: {}\n",
    "no block": "study: a # b\n",
    "no last line": "study: a",
    "empty": "",
}


@pytest.mark.parametrize("commit", [A, B, "12e4" + "5" * 36])
@pytest.mark.parametrize("text", WHERE.values(), ids=WHERE)
def test_a_pin_is_written_and_nothing_else(text, commit):
    after = with_pin(text, "x/y", commit)
    before, found = yaml.safe_load(text) or {}, yaml.safe_load(after)
    assert found.pop("pins") == (before.pop("pins", None) or {}) | {"x/y": commit}
    assert found == before
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == comments
    assert with_pin(after, "x/y", commit) == after


names = st.from_regex(r"[a-z][a-z0-9]{0,3}/[a-z][a-z0-9-]{0,4}", fullmatch=True)


@settings(deadline=None)
@given(st.dictionaries(names, st.sampled_from([None, "main", A]), max_size=4), names, st.booleans())
def test_any_block_of_pins_can_be_completed(pins, repository, flow):
    text = yaml.safe_dump({"pins": pins, "study": "s"}, default_flow_style=flow)
    after = yaml.safe_load(with_pin(text, repository, B))
    assert after == {"pins": pins | {repository: B}, "study": "s"}


@pytest.mark.parametrize("text", ["pins: [x/y]", "pins: main", "pins:\n"])
def test_pins_that_are_no_mapping_are_refused(text):
    with pytest.raises(ConfigError, match="pins"):
        with_pin(text, "x/y", A)


# ---- the command ---------------------------------------------------------------------------------

STUDY = """\
# a study
study: mine
base: owner/model # the base
pins:
  owner/model: null # to be pinned
  allenai/ai2_arc: {pinned}
  other/unused: null
evaluation: {{tasks: [arc_easy, published_arc_easy, piqa]}}
instructions: {{data: yahma/alpaca-cleaned, count: 99}}
recipes: {{3B: {{train_mask: prefill_bidir}}}}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "cache")
    for name in ("allenai/ai2_arc", "baber/piqa", "yahma/alpaca-cleaned"):
        fake.add(name, {"a": name.encode()}, "dataset")
    fake.add("owner/model", {"config.json": b"{}"})
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    return fake


def test_missing_commits_are_looked_up_once_and_the_study_then_loads(configs, fake, capsys):
    file = configs / "mine.yaml"
    file.write_text(STUDY.format(pinned=A))
    with pytest.raises(ConfigError, match="pins.owner/model .*mine.yaml:5"):
        load_study({"extends": "mine.yaml"}, configs)
    assert main(["pin", str(file), "--folder", str(configs)]) == 0
    looked_up = {name for _, name, _ in fake.calls}
    assert (
        looked_up == {"owner/model", "baber/piqa", "yahma/alpaca-cleaned"} and len(fake.calls) == 3
    )
    study = load_study({"extends": "mine.yaml"}, configs)
    commits = {name: commit for name, _, commit in fake.repositories}
    assert study.pins == commits | {"allenai/ai2_arc": A, "other/unused": None}
    assert study.from_hub and "# to be pinned" in file.read_text()
    assert "owner/model: " + commits["owner/model"] in capsys.readouterr().out
    before = file.read_bytes()
    assert pin(file, configs) == {} and file.read_bytes() == before and len(fake.calls) == 3


def test_a_pin_is_written_into_the_file_that_has_it(configs, fake):
    (configs / "far.yaml").write_text("pins:\n  owner/model: v1 # a tag\n")
    near = configs / "near.yaml"
    near.write_text("extends: far.yaml\nbase: owner/model\n")
    pin(near, configs)
    assert fake.calls == [("info", "owner/model", "v1")]
    assert near.read_text() == "extends: far.yaml\nbase: owner/model\n"
    assert yaml.safe_load((configs / "far.yaml").read_text())["pins"]["owner/model"] != "v1"


def test_nothing_is_written_if_one_commit_cannot_be_looked_up(configs, fake, monkeypatch, capsys):
    file = configs / "mine.yaml"
    file.write_text(STUDY.format(pinned="null"))
    before = file.read_bytes()

    def refuse(repository, kind, revision):
        if repository == "yahma/alpaca-cleaned":
            raise hub.HubError("no network")
        return A

    monkeypatch.setattr(hub, "resolve_commit", refuse)
    assert main(["pin", str(file), "--folder", str(configs)]) == 1
    assert "no network" in capsys.readouterr().err and file.read_bytes() == before


def test_a_missing_file_is_named(configs, capsys):
    assert main(["pin", str(configs / "none.yaml")]) == 1
    assert "none.yaml: no such file" in capsys.readouterr().err
