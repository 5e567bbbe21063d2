"""Promises of a job's items: lm_eval builds them once, the tokenizer encodes them once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lm_eval
import numpy as np
import pandas as pd
import pytest
from lm_eval import utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ablation.analysis.metrics import MetricsDisagree, study_metrics
from ablation.scoring import encoding
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import MASKS
from ablation.workflow.load import QUIET
from tests.support.tiny import tiny_model
from tests.unit.scoring.test_evaluate import COMMON, TASK_CODE

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
ITEMS = 30
TASKS = {
    "plain": "",
    "shots": "num_fewshot: 2\nfewshot_split: shots\n",
    "repeated": "repeats: 2\n",
    "informed": "",  # lm_eval asks for each choice without its context too
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder of tasks with templates, and a folder of their data."""
    folder = tmp_path_factory.mktemp("study")
    tasks, data = folder / "tasks", folder / "data"
    tasks.mkdir()
    data.mkdir()
    code = TASK_CODE.replace('{"test":', 'dict.fromkeys(("test", "shots"),').replace(
        "cache_dir=data_folder)}", "cache_dir=data_folder))"
    )
    (tasks / "data.py").write_text(code)
    common = COMMON.replace("metadata", "  - {metric: acc_mutual_info}\nmetadata")
    for name, lines in TASKS.items():
        (tasks / f"{name}.yaml").write_text(
            f"task: {name}\n{common if name == 'informed' else COMMON}{lines}"
            "dataset_kwargs: {file: items.jsonl}\n"
            'doc_to_text: "Question: {{query}}"\ndoc_to_choice: "{{choices}}"\n'
            'doc_to_target: "{{gold}}"\n'
        )
    names = ["Eve", "Tom", "Ann", "Bé"]
    documents = [
        {
            "query": f"{names[i % 4]} has {i} keys and {names[i % 3]} asked for",
            "choices": [f"{i + j} of the {names[j]}" + "s" * j for j in range(4)],
            "gold": i * 7 % 4,
        }
        for i in range(ITEMS)
    ]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, documents)))
    return tasks, data


@pytest.fixture
def model(tokenizer):
    return tiny_model("llama", vocabulary=len(tokenizer))


class Calls:
    """Counts the calls of functions, which still do their work."""

    def __init__(self, monkeypatch, **functions):
        self.counts = dict.fromkeys(functions, 0)
        for name, owner in functions.items():
            monkeypatch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name, function):
        def counted(*arguments, **options):
            self.counts[name] += 1
            return function(*arguments, **options)

        return counted


def test_no_mask_after_the_first_builds_hashes_or_encodes_again(
    study, model, tokenizer, monkeypatch
):
    calls = Calls(
        monkeypatch,
        build_all_requests=ConfigurableTask,
        hash_string=utils,
        _encode_strings=encoding.BatchEncodingLM,
        tok_encode=HFLM,
    )
    items = Items(tokenizer, ["plain", "shots"], *study)
    results = [evaluate(model, items, "causal")]
    assert calls.counts == {
        "build_all_requests": 2,
        "hash_string": 2 * 3 * ITEMS,
        "_encode_strings": 1,
        "tok_encode": 0,  # HFLM encodes one string at a time
    }
    before = dict(calls.counts)
    results += [evaluate(model, items, mask) for mask in MASKS[1:]]
    assert calls.counts == before
    for mask, result in zip(MASKS, results, strict=True):
        alone = evaluate(model, Items(tokenizer, ["plain", "shots"], *study), mask)
        pd.testing.assert_frame_equal(result.samples, alone.samples)
        assert result.facts == alone.facts
        study_metrics(result.samples, result.facts)  # raises if lm_eval disagrees


def test_a_template_is_compiled_once_and_not_for_every_document(study, tokenizer, monkeypatch):
    calls = Calls(monkeypatch, compile=utils.env)
    Items(tokenizer, ["plain"], *study)
    assert calls.counts["compile"] < ITEMS
    assert "from_string" not in vars(utils.env)  # lm_eval is as it was


def test_a_field_of_a_document_is_rendered_once_a_job(study, model, tokenizer, monkeypatch):
    calls = Calls(monkeypatch, apply_template=utils)
    items = Items(tokenizer, ["plain"], *study)
    for mask in MASKS[:2]:
        evaluate(model, items, mask)
    # text, choices and target; lm_eval looks at the first document of a task too
    assert calls.counts["apply_template"] <= 3 * ITEMS + 10


@pytest.mark.parametrize("block", [encoding.BLOCK, 7])
def test_few_shot_prompts_repeats_and_further_requests_are_those_of_lm_eval(
    block, study, model, tokenizer, monkeypatch
):
    monkeypatch.setattr(encoding, "BLOCK", block)
    items = Items(tokenizer, list(TASKS), *study)
    facts, samples, _ = evaluate(model, items, "causal")
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", logits_cache=False),
        tasks=list(TASKS),
        task_manager=TaskManager(
            include_path=str(study[0]),
            include_defaults=False,
            metadata={"data_folder": str(study[1])},
        ),
        bootstrap_iters=0,
    )
    study_metrics(samples, facts)
    for task in TASKS:
        of_task = theirs["results"][task]
        expected = {
            name.removesuffix(",none"): value
            for name, value in of_task.items()
            if name.startswith("acc") and "stderr" not in name
        }
        assert facts["lm_eval"][task] == expected
        rows = samples[samples.task == task]
        for sample in theirs["samples"][task]:
            mine = rows[rows.doc_id == sample["doc_id"]]
            assert set(mine.prompt_hash) == {sample["prompt_hash"]}
            answers = [answer[0] for answer in sample["filtered_resps"][:4]]
            assert mine.loglikelihood.tolist() == pytest.approx(answers, abs=1e-4)
    assert "acc_mutual_info" in facts["lm_eval"]["informed"]
    assert samples[samples.task == "shots"].prompt_hash.nunique() == ITEMS


def test_rows_that_belong_to_other_requests_are_found_by_lm_evals_accuracies(
    study, model, tokenizer
):
    items = Items(tokenizer, ["plain"], *study)
    items.by_protocol[0].request_of_row = np.roll(items.by_protocol[0].request_of_row, 1)
    result = evaluate(model, items, "causal")
    with pytest.raises(MetricsDisagree, match="task plain: acc"):
        study_metrics(result.samples, result.facts)


def test_the_model_of_a_job_is_an_lm_eval_model_still(study, model, tokenizer):
    manager = TaskManager(
        include_path=str(study[0]), include_defaults=False, metadata={"data_folder": str(study[1])}
    )
    lm = MaskedLM(model, tokenizer, mask="prefill_bidir")
    found = lm_eval.simple_evaluate(lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    ours = evaluate(model, Items(tokenizer, list(TASKS), *study), "prefill_bidir")
    for task, metrics in ours.facts["lm_eval"].items():
        assert metrics == {name: found["results"][task][f"{name},none"] for name in metrics}


JOB = """
import logging, sys
import torch
from ablation.console.progress import copy_output_to
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from tests.support.tiny import tiny_model, tiny_tokenizer
torch.set_num_threads(1)
tokenizer = tiny_tokenizer()
model = tiny_model("llama", vocabulary=len(tokenizer))
with copy_output_to("log"):
    evaluate(model, Items(tokenizer, ["plain"], *sys.argv[1:]), "causal", label="ours")
    logging.getLogger("lm_eval.api.task").warning("[Task: plain] no split of shots")
"""


def test_the_log_of_a_job_has_no_remarks_of_lm_eval_but_its_warnings(study, tmp_path):
    command = [sys.executable, "-c", JOB, *map(str, study)]
    place = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    subprocess.run(command, cwd=tmp_path, env=os.environ | QUIET | place, check=True)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("ours: 120/120 (100 %)")
    assert second == "lm_eval.api.task: [Task: plain] no split of shots"
