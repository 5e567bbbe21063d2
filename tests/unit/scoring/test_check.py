"""Promises of `ablation check`: it says of a folder whether it can be studied, and why not; and of
docs/models.md, which it makes."""

import re
from pathlib import Path

import pytest
import torch

from ablation.cli.main import main
from ablation.model.masks import MASK_RULES
from ablation.scoring.check import StockFails, check
from tests.support.checkpoints import quantize, write_multimodal
from tests.support.families import write_family

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
STEPS = ["rows", "causal", "prefill_bidir", "full_bidir", "decoding", "packing", "save and reload"]


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gpt2", "qwen3_moe", "gpt_oss", "opt"])
def test_a_family_agrees_with_stock_lm_eval_under_every_mask(family, tmp_path):
    steps = list(check(write_family(tmp_path, family)))
    assert [step.name for step in steps] == STEPS
    assert all(step.passed for step in steps), steps


def test_a_multimodal_checkpoint_in_fp8_is_checked_too(tmp_path):
    folder = write_multimodal(tmp_path)
    quantize(folder)
    assert all(step.passed for step in check(folder, dtype="bfloat16"))


def test_the_command_says_that_a_model_can_be_studied(tmp_path, capsys):
    folder = write_family(tmp_path, "llama")
    assert main(["check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()][:-1] == STEPS
    assert re.search(rf"{folder} can be studied \(\d+ s\)\n$", said)


def test_the_command_says_why_a_model_cannot_be_studied(tmp_path, capsys):
    assert main(["check", str(write_family(tmp_path / "model", "moshi"))]) == 1
    assert "one sequence alone" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nowhere")]) == 1
    assert "no config.json there" in capsys.readouterr().err


def test_a_mask_that_is_not_what_it_is_called_is_found(tmp_path, monkeypatch):
    folder = write_family(tmp_path, "llama")

    def three_columns(branch):  # of which the audit looks at the first
        return (branch == 0) & (torch.arange(branch.shape[1]) < 3)

    wrong = MASK_RULES["prefill_bidir"]._replace(sees_ahead=three_columns)
    monkeypatch.setitem(MASK_RULES, "prefill_bidir", wrong)
    assert "prefill_bidir" in {step.name for step in check(folder) if not step.passed}


def test_a_model_on_which_transformers_itself_fails_is_named(tmp_path):
    folder = write_family(tmp_path, "llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(StockFails, match="themselves fail"):
        list(check(folder))


# ---- docs/models.md ------------------------------------------------------------------------------


def test_the_page_of_models_names_sixty_families_and_a_reason_for_every_refusal():
    text = (ROOT / "docs/models.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    found = {family: (verdict, why) for family, verdict, why in rows[1:]}
    kinds = [verdict for verdict, _ in found.values()]
    assert set(kinds) <= {"agrees", "refused", "not tried"}
    assert kinds.count("agrees") + kinds.count("refused") >= 60 and kinds.count("agrees") >= 45
    for family, (verdict, why) in found.items():
        if verdict == "agrees":
            assert float(why.split()[0]) <= 1e-4, family
        else:
            assert len(why.split()) >= 4, (family, why)
