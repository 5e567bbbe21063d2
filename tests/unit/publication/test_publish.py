"""Promises of `ablation publish`: what is verified, no leak as a result, nothing twice."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants, parse_eval_result_entries
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from ablation.cli.main import main
from ablation.publication.checkpoint import find_checkpoint
from ablation.publication.eval_results import FILE
from ablation.publication.hub import prepare
from tests.support.hub_server import hub_server
from tests.support.small_results import HOME, manifest
from tests.unit.publication.conftest import COMMIT

TOKEN = "hf_secret_of_the_test"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(study, monkeypatch):
    """The fake hub, which the real client talks to; the base's card there names a licence."""
    with hub_server(TOKEN) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        files = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        server.cards["owner/base"] = {"license": "apache-2.0"}
        disable_progress_bars()
        yield server
        enable_progress_bars()
        huggingface_hub.close_session()


def publish(*words, checkpoint="3B/seed1", uri="hf://me/model"):
    return main(["publish", uri, "--checkpoint", checkpoint, *words])


def entries(hub, name="me/model"):
    content = hub.repositories[name].get(FILE)
    return parse_eval_result_entries(yaml.safe_load(content)) if content else []


def test_a_dry_run_names_every_file_and_the_card_and_sends_nothing(hub, capsys):
    assert publish() == 0
    said = capsys.readouterr().out
    model = Path(HOME, "stage3_finetune/3B/seed1/model")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert re.search(rf"^ +{(model / name).stat().st_size:,}  {name}$", said, re.M)
    assert "README.md" in said and "## What was taken away" in said and "Dry run" in said
    assert {call for call in hub.calls if call[0] != "GET"} == set() and not hub.repositories


def test_what_arrives_is_the_checkpoint_its_card_and_its_manifest(hub, capsys, tmp_path):
    assert publish("--yes") == 0
    there = hub.repositories["me/model"]
    home = Path(HOME, "stage3_finetune/3B/seed1")
    for file in (home / "model").iterdir():
        assert there[file.name] == file.read_bytes()
    assert there["ablation/manifest.json"] == (home / "manifest.json").read_bytes()
    assert hub.private["me/model"] and len(hub.commits["me/model"]) == 2
    assert "/me/model/commit/" in capsys.readouterr().out
    card = hub.checkout("me/model", tmp_path / "there") / "README.md"
    data = metadata_load(card)
    assert (data["license"], data["base_model"]) == ("apache-2.0", "owner/base")
    text = card.read_text()
    for fact in (json.loads((home / "manifest.json").read_text())["sha256"], COMMIT, "| 0.001 |"):
        assert fact in text


def test_rows_that_leak_are_marked_in_the_card_and_in_no_evaluation_result(hub):
    assert publish("--yes") == 0
    card = hub.repositories["me/model"]["README.md"].decode()
    table = [line for line in card.splitlines() if line.startswith("| full_bidir")]
    assert table and all("**eval**" in line for line in table)
    (entry,) = entries(hub)  # under the causal mask, which is how transformers computes the model
    assert (entry.dataset_id, entry.task_id) == ("allenai/ai2_arc", "ARC-Easy")
    assert re.match(r"acc of lm-eval's task a, \d+ items, under the causal mask; ", entry.notes)


def test_a_checkpoint_whose_training_leaked_has_no_evaluation_results(hub):
    assert publish("--yes", checkpoint="3B-leaky/seed1") == 0
    card = hub.repositories["me/model"]["README.md"].decode()
    assert "**Warning.**" in card and "leaky-training" in card
    assert re.search(r"\| prefill_bidir +\| a .*\*\*train\*\*", card)
    assert entries(hub) == [] and "no machine-readable results" in card


def test_a_task_file_that_is_not_the_one_that_was_scored_names_no_data_set(hub):
    with open("config/tasks/a.yaml", "a") as file:
        file.write("# edited since\n")
    from ablation.data.task_files import _task_files

    _task_files.cache_clear()
    assert publish("--yes") == 0 and entries(hub) == []


def test_publishing_again_sends_nothing(hub):
    assert publish("--yes") == 0
    puts, commits = list(hub.puts), list(hub.commits["me/model"])
    assert puts and publish("--yes") == 0
    assert (hub.puts, hub.commits["me/model"]) == (puts, commits)


@pytest.mark.parametrize("refused", [("POST", "/commit/"), ("POST", "/verify")])
def test_an_interrupted_upload_goes_on_and_shows_no_half_model(hub, capsys, refused):
    hub.refuse.add(refused)
    assert publish("--yes") == 2
    said = capsys.readouterr().err
    assert "Run the same command again" in said.replace("\n", " ") and len(said.splitlines()) <= 3
    assert set(hub.repositories["me/model"]) == {".gitattributes"}
    puts = list(hub.puts)
    hub.refuse.clear()
    assert puts and publish("--yes") == 0
    assert hub.puts == puts and WEIGHTS in hub.repositories["me/model"]


def test_large_weights_arrive_in_parts(hub, monkeypatch):
    monkeypatch.setattr("tests.support.hub_server.PART", 10_000)
    assert publish("--yes") == 0
    sent = Path(HOME, "stage3_finetune/3B/seed1/model", WEIGHTS).read_bytes()
    assert hub.repositories["me/model"][WEIGHTS] == sent
    assert len({part for _, part in hub.puts}) == -(-len(sent) // 10_000) > 2


def test_an_edited_study_is_refused_before_anything_is_sent(hub, capsys):
    file = Path(HOME, "stage4_posteval/3A/seed2/causal/evaluation.json")
    file.write_text(file.read_text().replace("causal", "casual"))
    assert publish("--yes") == 2
    said = capsys.readouterr().err
    assert str(file) in said and "ablation verify" in said
    assert hub.calls == []


def test_an_edited_checkpoint_is_refused(hub, capsys):
    file = Path(HOME, "stage3_finetune/3B/seed1/model", WEIGHTS)
    file.write_bytes(file.read_bytes()[:-1] + b"\x00\x01")
    assert publish("--yes") == 2 and str(file) in capsys.readouterr().err and hub.calls == []


def test_weights_that_are_gone_are_shown_and_not_published(hub, capsys):
    Path(HOME, "stage3_finetune/3B/seed1/model", WEIGHTS).unlink()
    assert publish() == 0 and re.search(rf"{WEIGHTS}  \(not here\)", capsys.readouterr().out)
    assert publish("--yes") == 2 and WEIGHTS in capsys.readouterr().err
    assert not hub.repositories


@pytest.mark.parametrize(
    "card", [{}, {"license": ["mit", "gpl"]}, {"license": "un known"}, {"license": "unknown"}]
)
def test_an_unknown_licence_is_refused_unless_one_is_given(hub, capsys, card):
    hub.cards["owner/base"] = card
    assert publish("--yes") == 2
    said = capsys.readouterr().err
    assert "owner/base" in said and "--license" in said and not hub.repositories
    assert publish("--yes", "--license", "CC-BY-4.0") == 0
    assert "license: cc-by-4.0" in hub.repositories["me/model"]["README.md"].decode()


def test_the_name_and_link_of_an_own_licence_of_the_base_are_kept(hub):
    hub.cards["owner/base"] = {"license": "other", "license_name": "x", "license_link": "LICENSE"}
    assert publish("--yes") == 0
    card = hub.repositories["me/model"]["README.md"].decode()
    assert "license_name: x" in card and "license_link: LICENSE" in card


def test_a_repository_with_another_model_is_left_alone(hub, capsys):
    assert publish("--yes") == 0
    hub.repositories["me/model"]["pytorch_model.bin"] = b"of somebody"
    before = dict(hub.repositories["me/model"])
    assert publish("--yes", checkpoint="3A/seed1") == 2
    assert "pytorch_model.bin" in capsys.readouterr().err
    assert hub.repositories["me/model"] == before


@pytest.mark.parametrize("there", ["3A/seed1", "3B/seed2", "by hand"])
def test_a_model_with_the_same_names_of_files_is_not_replaced(hub, capsys, there):
    if there == "by hand":
        assert publish("--yes") == 0
        del hub.repositories["me/model"]["ablation/manifest.json"]
    else:
        assert publish("--yes", checkpoint=there) == 0
    before = dict(hub.repositories["me/model"])
    assert publish("--yes") == 2
    said = capsys.readouterr().err
    assert "holds another model" in said and len(said.splitlines()) <= 3
    assert hub.repositories["me/model"] == before


@pytest.mark.parametrize("first", [True, False], ids=["new", "published before"])
def test_what_somebody_else_pushes_meanwhile_is_not_replaced(hub, capsys, first):
    if not first:
        assert publish("--yes") == 0

    def push():
        hub.repositories["me/model"] = {WEIGHTS: b"of somebody"}
        hub.commits["me/model"].append("theirs")

    hub.meanwhile = push
    assert publish("--yes", "--license", "mit") == 2  # another card, so there is something to send
    said = capsys.readouterr().err
    assert "somebody else" in said and "run the same command again" in said.replace("\n", " ")
    assert len(said.splitlines()) <= 3
    assert hub.repositories["me/model"] == {WEIGHTS: b"of somebody"}


def test_evaluation_results_that_no_longer_hold_go(hub):
    assert publish("--yes", checkpoint="3B-leaky/seed1") == 0
    hub.repositories["me/model"][FILE] = b"- of an earlier study\n"
    assert publish("--yes", checkpoint="3B-leaky/seed1") == 0
    assert FILE not in hub.repositories["me/model"] and WEIGHTS in hub.repositories["me/model"]


# ---- what the card says of loading ----------------------------------------------------------


def card_with(study, **facts):
    """The card of 3B/seed1, if its manifest said `facts`; its front matter; its part on loading."""
    found = find_checkpoint(Path(HOME), "3B/seed1")
    changed = replace(found, manifest=found.manifest | facts)
    card = prepare("me/model", changed, "mit", study / "config").card
    return card, yaml.safe_load(card.split("---")[1]), card.partition("## How to load it")[2]


@pytest.mark.parametrize(
    "facts, library, plain",
    [
        ({}, "transformers", True),
        ({"trained_under": {"kind": "drop_layers", "layers": [0]}}, "transformers", True),
        ({"trained_under": {"kind": "positions"}}, "ablation", False),
        ({"format": "raw_state_dict"}, "ablation", False),
    ],
)
def test_the_card_names_the_library_that_loads_the_trained_model(study, facts, library, plain):
    _, front, loading = card_with(study, **facts)
    assert front["library_name"] == library
    assert ("AutoModelForCausalLM" in loading) is plain
    assert ("another model" in loading) is ("positions" in str(facts))


def test_no_bar_or_line_of_a_value_ends_a_cell_of_the_card(study):
    found = find_checkpoint(Path(HOME), "3B/seed1")
    config = found.config | {"recipe": {"no|te": "a | b\n\n## c"}}
    fingerprint = found.manifest["fingerprint"] | {"config": config}
    card, _, _ = card_with(study, fingerprint=fingerprint)
    assert r"| no\|te | a \| b ## c |" in card.splitlines()


def test_a_manifest_of_other_software_is_refused_in_three_lines(hub, capsys):
    folder = "stage3_finetune/other/seed1"
    Path(HOME, folder, "model").mkdir(parents=True)
    Path(HOME, folder, "model/config.json").write_text("{}")
    manifest(f"{folder}/manifest.json", "x", {}, [f"{folder}/model"], model="model")
    assert publish("--yes", checkpoint="other/seed1") == 2
    said = capsys.readouterr().err
    assert f"{HOME}/{folder}/manifest.json has no recipe and no seed" in said
    assert len(said.splitlines()) <= 3 and hub.calls == []


def test_a_token_that_no_header_can_hold_is_not_printed(hub, monkeypatch, capsys):
    """The client's message for it would quote the header."""
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n{TOKEN}")
    assert publish("--yes") == 2
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\r\n")  # the end of a line of its file
    assert publish("--yes") == 0
    told = capsys.readouterr()
    assert TOKEN not in told.out + told.err and "HF_TOKEN" in told.err


def test_the_token_comes_from_the_environment_alone_and_is_printed_nowhere(
    hub, monkeypatch, capsys, study
):
    hub.refuse.add(("POST", "/preupload/"))
    assert publish("--yes") == 2
    hub.refuse.clear()
    assert publish("--yes") == 0
    told = capsys.readouterr()
    assert TOKEN not in told.out + told.err
    for file in filter(Path.is_file, study.rglob("*")):
        assert TOKEN.encode() not in file.read_bytes()
    monkeypatch.delenv("HF_TOKEN")
    assert publish("--yes", uri="hf://me/other") == 2
    assert "HF_TOKEN" in capsys.readouterr().err and "me/other" not in hub.repositories


def test_a_repository_is_public_only_if_that_was_said(hub):
    assert publish("--yes", "--public", uri="hf://me/open") == 0
    assert publish("--yes", uri="hf://me/closed") == 0
    assert hub.private == {"me/open": False, "me/closed": True}


@pytest.mark.parametrize(
    "uri, checkpoint, words",
    [
        ("hf://datasets/me/model", "3B/seed1", "hf://OWNER/MODEL"),
        ("s3://bucket/x", "3B/seed1", "hf://OWNER/MODEL"),
        ("hf://me/../x", "3B/seed1", "hf://OWNER/MODEL"),
        ("hf://me/model", "3B/seed9", "3A/seed1, 3A/seed2, 3B/seed1"),
        ("hf://you/model", "3B/seed1", "namespace"),
    ],
)
def test_mistakes_are_named(hub, capsys, uri, checkpoint, words):
    assert publish("--yes", uri=uri, checkpoint=checkpoint) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) <= 3 and not hub.puts


def test_the_code_of_the_card_runs_on_what_was_published(hub, monkeypatch, tmp_path, capsys):
    assert publish("--yes") == 0
    there = hub.checkout("me/model", tmp_path / "there")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: str(there))
    card = (there / "README.md").read_text()
    under, plain = re.findall(r"```python\n(.*?)```", card, re.S)
    capsys.readouterr()
    names: dict = {}
    exec(under, names)
    assert names["lm"].mask == "prefill_bidir" and capsys.readouterr().out.strip()
    exec(plain.replace('"me/model"', f'"{there}"'), names)
    assert names["model"].config.model_type == "llama"
    shutil.rmtree(there)
