"""Promises of scoring on several cards: the same bytes as on one, from equal shares of the rows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ablation.model import checkpoints
from ablation.model.checks.treated import NotInForce
from ablation.parallel import collectives
from ablation.scoring import job, masked_lm
from ablation.scoring.job import Scoring, score_on
from ablation.scoring.masked_lm import MaskedLM
from tests import preloaded
from tests.support.small_training import HARDWARE
from tests.support.tiny import tiny_model
from tests.unit.scoring.test_evaluate import TASKS, study  # noqa: F401
from tests.unit.scoring.test_scoring import PAIRS

pytestmark = pytest.mark.usefixtures("one_thread")
CONDITIONS = ["causal", "prefill_bidir"]


@pytest.fixture
def scoring(study, tokenizer, tmp_path):  # noqa: F811
    """A scoring of three tasks under two masks, in rows that hold a few items."""
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    checkpoints.save(model, tokenizer, tmp_path / "model")
    homes = [tmp_path / mask for mask in CONDITIONS]
    for home in homes:
        home.mkdir()
    sizes = {"row_tokens": 64, "batch_tokens": 128, "limit": None}
    return Scoring(
        HARDWARE,
        tmp_path / "model",
        name="base",
        taken=None,
        trained_under=None,
        evaluation={"tasks": list(TASKS), **sizes},
        data=study[1],
        task_folder=str(study[0]),
        masks=CONDITIONS,
        conditions=CONDITIONS,
        homes=list(map(str, homes)),
        label="test",
    )


def written(found):
    return [[file.read_bytes() for file in scored.outputs] for scored in found]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"evaluation": {"tasks": ["nonsense"]}}, ValueError, "nonsense"),
        ({"trained_under": {"kind": "window", "tokens": 4}}, NotInForce, "manifest says"),
        ({"folder": Path("nowhere")}, FileNotFoundError, "nowhere: there is no such folder"),
    ],
    ids=["items", "model", "folder"],
)
def test_an_error_of_items_or_model_ends_a_job_whichever_of_both_is_ready_first(
    change, error, said, scoring
):
    evaluation = {"evaluation": scoring.evaluation | change.get("evaluation", {})}
    with pytest.raises(error, match=said):
        score_on(replace(scoring, **(change | evaluation)), 1)
    assert not any(list(Path(home).iterdir()) for home in scoring.homes)


def test_three_ranks_write_the_bytes_of_one(scoring, monkeypatch):
    monkeypatch.setenv(preloaded.VARIABLE, preloaded.servers())
    monkeypatch.syspath_prepend(preloaded.START)
    alone = score_on(scoring, 1)
    bytes_alone = written(alone)
    together = score_on(scoring, 3)
    assert written(together) == bytes_alone and len(bytes_alone[0]) == 2
    assert [(s.leaks, s.circumstances) for s in together] == [
        (s.leaks, s.circumstances) for s in alone
    ]
    for home in scoring.homes:
        with open(f"{home}/run.json") as record:
            assert json.load(record)["ranks"] == 3


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_row_is_computed_once_and_shares_differ_by_one_row(count, tokenizer, monkeypatch):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    lm = MaskedLM(model, tokenizer, row_tokens=32, batch_tokens=32)
    examples, _, _ = lm._examples(lm.encode(PAIRS))
    every = [batch for batch, _ in lm._batches(examples, range(len(examples)))]
    monkeypatch.setattr(collectives, "ranks", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        shares.append([batch for batch, _ in lm._batches(examples, range(len(examples)))])
    assert sorted(sum(shares, [])) == sorted(every) and len(every) > count
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_begin_again_with_smaller_rows_when_one_is_out_of_memory(scoring, monkeypatch):
    attempts = []

    def run(function, given, **options):
        attempts.append(options)
        if len(attempts) < 3:
            raise torch.OutOfMemoryError
        return function(given)

    monkeypatch.setattr(job.launch, "run", run)
    found = score_on(scoring, 2)
    assert [scored.circumstances["row_tokens"] for scored in found] == [16, 16]
    assert attempts == [{"ranks": 2, "gpu": False}] * 3


def test_memory_that_is_too_small_for_any_row_ends_the_job(scoring, monkeypatch):
    def run(function, given, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(job.launch, "run", run)
    with pytest.raises(torch.OutOfMemoryError):
        score_on(scoring, 2)


def test_a_rank_leaves_other_rows_to_all_ranks_when_memory_is_short(tokenizer, monkeypatch):
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    lm = MaskedLM(model, tokenizer, row_tokens=32, batch_tokens=32)

    def scarce(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(masked_lm, "score_rows", scarce)
    monkeypatch.setattr(masked_lm, "ranks", lambda: 2)
    with pytest.raises(torch.OutOfMemoryError):
        lm.score([lm.encode(PAIRS)], len(PAIRS))
    assert lm.row_tokens == 32
