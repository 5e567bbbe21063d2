"""Promises of the five benchmarks: the prompts of lm_eval or of the published study, no network."""

from pathlib import Path

import lm_eval.tasks
import numpy as np
import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from ablation.analysis.metrics import item_correct
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import Items
from ablation.scoring.local_copies import local_copies
from ablation.vocabulary.masks import MASKS
from tests.support import benchmarks, published_port
from tests.support.benchmarks import NAMES
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = Path(__file__).resolve().parents[3] / "config/tasks"
STOCK = Path(lm_eval.tasks.__file__).parent
STOCK_FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "winogrande": "winogrande/default.yaml",
}
PUBLISHED = {name: f"published_{name}" for name in NAMES}
RAW = {
    "hellaswag": benchmarks.HELLASWAG,
    "piqa": benchmarks.PIQA,
    "arc_easy": [benchmarks.ARC_WITHOUT_ITEM, *benchmarks.ARC],
    "arc_challenge": [benchmarks.ARC_WITHOUT_ITEM, *benchmarks.ARC[::-1]],
    "winogrande": [benchmarks.WINOGRANDE_WITHOUT_ITEM, *benchmarks.WINOGRANDE],
}


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return benchmarks.write_copies(tmp_path_factory.mktemp("copies"), odd=True)


def load(folder, names):
    manager = TaskManager(
        include_path=str(TASKS), include_defaults=False, metadata={"data_folder": str(folder)}
    )
    with local_copies(folder):
        return manager.load(list(names))["tasks"]


@pytest.fixture(scope="module")
def tasks(copies, tmp_path_factory):
    plain = benchmarks.write_copies(tmp_path_factory.mktemp("plain"), odd=False)
    return load(plain, NAMES) | load(copies, PUBLISHED.values())


def strings(task):
    """Every (context, continuation) of a task, and the target that lm_eval compares with."""
    task.set_config("num_fewshot", 0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    targets = [task.doc_to_target(doc) for doc in task.eval_docs]
    if task.multiple_input:
        targets = [task.doc_to_text(doc) for doc in task.eval_docs]
    return [instance.args for instance in task.instances], targets


# --- protocol lm_eval -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_stock_tasks_have_the_prompts_of_lm_eval(name, tasks):
    documents = tasks[name].dataset[tasks[name].config.test_split or "validation"]
    stock = load_yaml(STOCK / STOCK_FILES[name])
    stock["custom_dataset"] = lambda **metadata: dict.fromkeys(
        ("train", "validation", "test"), documents
    )
    theirs = ConfigurableTask(config={k: v for k, v in stock.items() if k != "tag"})
    assert len(theirs.eval_docs) == 4
    assert strings(tasks[name]) == strings(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_stock_tasks_are_those_of_lm_eval(name):
    def plain(value):
        if not callable(value):
            return value
        return Path(value.__code__.co_filename).resolve(), value.__name__

    ours = load_yaml(TASKS / f"benchmarks/{name}.yaml")
    theirs = load_yaml(STOCK / STOCK_FILES[name])
    theirs.pop("tag", None)
    theirs = {key: value for key, value in theirs.items() if value is not None}
    assert {k: plain(v) for k, v in ours.items()} == {k: plain(v) for k, v in theirs.items()}


def test_stock_tasks_convert_markup_and_labels_of_the_data(tasks):
    (prompt, ending), *_ = strings(tasks["hellaswag"])[0]
    assert "[header]" not in prompt and "[substeps]" not in ending
    assert strings(tasks["arc_easy"])[1][1] == 2  # labels 1-4, key 3
    assert strings(tasks["winogrande"])[0][2] == ("Ann", " asked, so the hawk chose  Eve.")


# --- protocol published ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_published_tasks_have_the_prompts_of_the_port(name, tasks):
    found, targets = strings(tasks[PUBLISHED[name]])
    expected = published_port.items(name, RAW[name])
    assert len(expected) == 4, "an item without key or blank is dropped"
    assert found == [(prompt, c) for prompt, continuations, _ in expected for c in continuations]
    assert targets == [gold for *_, gold in expected]


def test_published_prompts_by_example(tasks):
    first = {name: strings(tasks[task])[0] for name, task in PUBLISHED.items()}
    assert first["hellaswag"][0] == (
        "Feeding a hawk: [header] How to feed a hawk [title] Ask Eve. [step] The hawk chose her.",
        " Eve has the key. [substeps] Ask.",
    )
    assert first["piqa"][1] == ("Who has the key?\nAnswer:", " Tom has it.")
    assert first["arc_easy"][0] == ("Who chose Eve?\nAnswer:", " the hawk")
    assert first["winogrande"][0] == ("Tom gave the key to Eve because ", "Eve asked for it.")
    assert first["winogrande"][2] == ("", "Ann asked, so the hawk chose  Eve.")
    rows = [doc["row"] for doc in tasks["published_arc_easy"].eval_docs]
    assert rows == [1, 2, 3, 4]


# Relative tolerances. A sum that is rounded to the 8 bits of bfloat16 may be rounded either way.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-7}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def scored(request, copies):
    """Sample rows under every mask, and the same items and choices scored by the port."""
    tokenizer = tiny_tokenizer()
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    eager = tiny_model("ministral3", vocabulary=len(tokenizer), attention="eager")
    items = Items(tokenizer, [*PUBLISHED.values()], TASKS, copies)
    samples, port, exact = {}, {}, {}
    for mask in MASKS:
        samples[mask] = evaluate(model, items, mask, logits_dtype=request.param).samples
        for scores, dtype in ((port, getattr(torch, request.param)), (exact, torch.float32)):
            scores[mask] = {
                (PUBLISHED[name], doc): (
                    [published_port.score(eager, tokenizer, i[0], c, mask, dtype) for c in i[1]],
                    i[2],
                )
                for name in NAMES
                for doc, i in enumerate(published_port.items(name, RAW[name]))
            }
    return request.param, samples, port, exact


@pytest.mark.parametrize("mask", MASKS)
def test_scores_are_those_of_the_port_item_by_item(scored, mask):
    dtype, samples, port, exact = scored
    relative = TOLERANCE[dtype]
    rows = samples[mask]
    assert len(rows) == sum(len(scores) for scores, _ in port[mask].values())
    for (task, doc), (scores, gold) in port[mask].items():
        mine = rows[(rows.task == task) & (rows.doc_id == doc)].sort_values("choice")
        tokens = mine.tokens.clip(lower=1)
        np.testing.assert_allclose(mine.loglikelihood / tokens, scores, rtol=relative)
        unrounded, _ = exact[mask][task, doc]
        np.testing.assert_allclose(mine.loglikelihood_float32 / tokens, unrounded, rtol=1e-5)
        assert set(mine.gold) == {gold}


@pytest.mark.parametrize("mask", MASKS)
def test_bfloat16_rounds_where_the_port_rounds(scored, mask):
    dtype, samples, port, _ = scored
    rows = samples[mask].sort_values(["task", "doc_id", "choice"])
    found = rows.loglikelihood / rows.tokens.clip(lower=1)
    expected = [s for item in sorted(port[mask]) for s in port[mask][item][0]]
    differs = rows.loglikelihood != rows.loglikelihood_float32
    if dtype == "float32":
        assert not differs.any()
    else:
        assert (found == expected).mean() > 0.9 and differs.mean() > 0.9


@pytest.mark.parametrize("mask", MASKS)
def test_items_right_are_those_of_the_port(scored, mask):
    dtype, samples, port, exact = scored
    checked = 0
    for metric, scores, relative in (
        ("acc_token", port[mask], TOLERANCE[dtype]),
        ("acc_token_float32", exact[mask], TOLERANCE["float32"]),
    ):
        for task, right in item_correct(samples[mask], metric).items():
            items = [item for (t, _), item in scores.items() if t == task]
            for found, (choices, gold) in zip(right, items, strict=True):
                second, first = sorted(choices)[-2:]
                if first - second > 2 * relative * abs(second):
                    assert found == (np.argmax(choices) == gold), (dtype, metric, task)
                    checked += 1
    assert checked >= 30, "too many of the 40 items have almost equal choices"


def test_tokens_that_the_protocol_does_not_score_are_not_counted(scored):
    rows = scored[1]["causal"].set_index(["task", "doc_id", "choice"])
    tokenizer = tiny_tokenizer()

    def tokens(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    tokens_of = rows.tokens["published_winogrande"]
    # no prompt: the first token is not predicted
    assert tokens_of[1, 0] == tokens("Ann asked, so the hawk chose  Eve.") - 1
    # the space before the blank is a token of the prompt, but one with the option in the whole:
    # the option's first token counts as prompt
    assert tokens_of[0, 0] == tokens("Eve asked for it.") - 1
    assert (rows.loglikelihood_float32 <= 0).all()


def test_a_choice_merged_whole_into_its_prompt_scores_minus_infinity():
    from lm_eval.api.instance import Instance

    from ablation.scoring.masked_lm import MaskedLM

    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocabulary=len(tokenizer))
    pairs = [("Then Tom gave the key to ", "Eve"), ("Then Tom gave the key to", " Eve")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    lm = MaskedLM(model, tokenizer, protocol="published")
    found = lm.loglikelihood(requests)
    expected = [
        published_port.score(model, tokenizer, *pair, "causal", torch.float32) for pair in pairs
    ]
    assert found[0] == (expected[0], False) == (-np.inf, False)
    assert found[1][0] == pytest.approx(expected[1], abs=1e-4)
    assert lm.score([lm.encode(pairs)], 2).tokens.tolist() == [0, 1]


# --- the data -------------------------------------------------------------------------------------


def test_a_missing_copy_is_named(tmp_path):
    (tmp_path / "allenai/ai2_arc").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="ai2_arc/ARC-Easy/test-....parquet was expected"):
        load(tmp_path, ["arc_easy"])
    with pytest.raises(FileNotFoundError, match="validation split below .*winogrande_xl"):
        load(tmp_path, ["published_winogrande"])
    with pytest.raises(ValueError, match="winogrande: no data folder"):
        TaskManager(include_path=str(TASKS), include_defaults=False).load(["published_winogrande"])


def test_limit_counts_items_and_not_documents(copies):
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocabulary=len(tokenizer))
    items = Items(tokenizer, ["published_arc_easy"], TASKS, copies, limit=2)
    rows = evaluate(model, items, "causal").samples
    assert rows.groupby("doc_id").size().tolist() == [4, 4]
    assert set(rows.gold) == {0, 2}  # documents 1 and 2: document 0 gives no item
