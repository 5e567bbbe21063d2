"""The items of a scoring job, which lm_eval builds once for all conditions.

lm_eval makes documents, prompts and requests, and computes accuracies from the responses. For each
condition it would load, build and hash all of them again, which takes longer than a small model
takes to score them. Here it builds them once, and of each condition it sees only the responses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as lm_eval_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from ablation.data.sample_rows import SAMPLE_COLUMNS
from ablation.data.shots import Shots, shots_of
from ablation.scoring.encoding import EncodedBlocks, Request
from ablation.scoring.local_copies import local_copies
from ablation.scoring.masked_lm import MaskedLM, Scores
from ablation.vocabulary.protocols import (
    LM_EVAL_PROTOCOL,
    PUBLISHED_PROTOCOL,
    protocol_of,
    tasks_by_macro,
)


class ProtocolOptions(NamedTuple):
    """The dtype in which a protocol scores, and how many items of a task it takes at most."""

    logits_dtype: str
    most_items: int | None


PROTOCOL_OPTIONS = {
    LM_EVAL_PROTOCOL: ProtocolOptions("float32", None),
    PUBLISHED_PROTOCOL: ProtocolOptions("bfloat16", 500),
}
# The fields of a document that name its cluster. HellaSwag's activities are one; PIQA, ARC and
# WinoGrande have none.
CLUSTER_FIELDS = ("cluster", "activity_label")
# The columns of the sample rows that depend on no model.
ROW_COLUMNS = [c for c in SAMPLE_COLUMNS if c not in (*Scores._fields, "mask", "checkpoint")]


class Items:
    """The items of `tasks`, with one `ProtocolItems` for each protocol that has tasks.

    tokenizer: that of all models that are scored on the items.
    tasks: names of multiple-choice tasks or groups, in `task_folder` or among lm_eval's own. The
        name of a task gives its protocol; tasks of several protocols may be scored together.
    task_folder: a folder of task files. lm_eval's own tasks, whose index takes seconds, are loaded
        only if a name is not in this folder.
    data_folder: a folder of data sets, in which tasks find those of their `dataset_path`. It is
        also passed to them as metadata: the function of a task's `custom_dataset` receives it as
        the keyword `data_folder`.
    limit: the number of documents that are scored of each task, from the first; None for all. The
        published protocol scores 500 at most.
    num_fewshot: the number of examples in each prompt, of all tasks or by task; None takes that of
        each task file. Tasks of the published protocol have none.
    chat_template: whether prompts are put into the tokenizer's chat template, with examples as
        turns, as lm_eval does it; not those of the published protocol.
    fewshot_seed: with which the examples in few-shot prompts are drawn.

    Raises FileNotFoundError for a missing task folder, and ValueError for an unknown task or one
    that is no multiple choice with one right answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[str],
        task_folder: str | Path | None = None,
        data_folder: str | Path | None = None,
        limit: int | None = None,
        num_fewshot: Shots = None,
        chat_template: bool = False,
        fewshot_seed: int = 1234,
    ) -> None:
        metadata = {} if data_folder is None else {"data_folder": str(data_folder)}
        manager = _task_manager(tasks, task_folder, metadata)
        self.tokenizer = tokenizer
        template = _chat_options(tokenizer) if chat_template else {}
        self.by_protocol: list[ProtocolItems] = []
        members: set[str] = set()
        for macro, names in tasks_by_macro(tasks).items():
            protocol = protocol_of(macro)
            with local_copies(data_folder, num_fewshot):
                loaded = manager.load(names)
            _set_examples(loaded["tasks"], num_fewshot, fewshot_seed)
            chat = template if protocol == LM_EVAL_PROTOCOL else {}
            self.by_protocol.append(ProtocolItems(protocol, loaded, limit, chat))
            members |= loaded["tasks"].keys()
        groups = sorted(set(num_fewshot if isinstance(num_fewshot, Mapping) else ()) - members)
        if groups:
            raise ValueError(
                f"num_fewshot names {', '.join(groups)}, which are groups of tasks: name their "
                "tasks in `tasks` and here, or give one number for all"
            )


class ProtocolItems:
    """The items of the tasks of one protocol.

    rows: the columns of the sample rows that depend on no model; one row per item and choice.
    requests: (context, continuation) of each request, in the order in which lm_eval makes them.
        A task may have several requests for a choice, or more than its choices have.
    request_of_row: [rows], the index of the request of each row.
    """

    def __init__(
        self,
        protocol: str,
        loaded: Mapping[str, Any],
        limit: int | None,
        chat: Mapping[str, Any],
    ) -> None:
        self.protocol = protocol
        limits = (n for n in (limit, PROTOCOL_OPTIONS[protocol].most_items) if n is not None)
        limit = min(limits, default=None)
        self._loaded: dict[str, Any] = {"groups": loaded["groups"], "tasks": {}}
        self._blocks: EncodedBlocks | None = None
        self.requests: list[Request] = []
        rows: list[tuple] = []
        self.request_of_row: list[int] = []
        for name, task in loaded["tasks"].items():
            _refuse_other_tasks(name, task)
            with _templates_compiled_once():
                built = self._loaded["tasks"][name] = BuiltTask(task, limit, chat)
                for instances in built.items:
                    starts = []
                    for instance in instances:
                        starts.append(len(self.requests))
                        self.requests += [instance.args] * instance.repeats
                    item_rows = _choice_rows(name, task, instances)
                    self.request_of_row += starts[: len(item_rows)]  # later ones: other metrics
                    rows += item_rows
        self.rows = pd.DataFrame(rows, columns=ROW_COLUMNS)

    def encoded(self, lm: MaskedLM) -> EncodedBlocks:
        """The encoded requests; `lm` encodes them the first time."""
        if self._blocks is None:
            self._blocks = EncodedBlocks(lm, self.requests)
        return self._blocks

    def sample_rows(self, scores: Scores) -> pd.DataFrame:
        """`rows` with the scores of each row."""
        columns = {name: column[self.request_of_row] for name, column in scores._asdict().items()}
        return self.rows.assign(**columns)

    def lm_eval_results(self, scores: Scores) -> Mapping[str, Any]:
        """The results that lm_eval itself computes from the responses of a model."""
        with _templates_compiled_once():
            results: Mapping[str, Any] = lm_eval_evaluate(
                _Answers(scores), self._loaded, bootstrap_iters=0, log_samples=False
            )
        return results


class BuiltTask:
    """A task of lm_eval whose documents and requests are made once; else it is the task itself.

    The task, which is changed for good, renders the fields of each document once.

    items: the requests of each document, in lm_eval's order.
    """

    def __init__(self, task: ConfigurableTask, limit: int | None, chat: Mapping[str, Any]) -> None:
        for field in ("doc_to_text", "doc_to_choice", "doc_to_target"):
            setattr(task, field, _computed_once(getattr(task, field)))
        task.build_all_requests(limit=limit, **chat)
        self._task = task
        self.eval_docs = task.task_docs  # the task's own property processes all documents again
        self.items = [list(of) for _, of in groupby(task.instances, lambda made: made.doc_id)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def build_all_requests(self, **options: object) -> None:
        """Forget the responses of the last condition."""
        for instance in self._task.instances:
            instance.resps = []

    def doc_iterator(self, **options: object) -> Iterator[tuple[int, dict]]:
        """(doc_id, document) of each item."""
        return ((first.doc_id, first.doc) for first, *_ in self.items)


class _Answers(LM):
    """A model that has answered all requests already."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self._answers = scores.answers()

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        return self._answers

    loglikelihood_rolling = generate_until = loglikelihood


@contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """Keep compiled templates, which lm_eval would compile again for each field of a document."""
    utils.env.from_string = lru_cache(maxsize=256)(utils.env.from_string)
    try:
        yield
    finally:
        del utils.env.from_string


def _computed_once(field: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a task, computed once for each document, which is kept with its value.

    lm_eval renders the choices of a document twice for its requests, and again for each condition.
    A task whose method draws at random then has one draw of a document in all its parts.
    """
    kept: dict[int, tuple[object, Any]] = {}

    def of(doc: object, *templates: object, **named: object) -> Any:
        if templates or named:  # An example in a prompt has a template of its own.
            return field(doc, *templates, **named)
        if id(doc) not in kept:
            kept[id(doc)] = doc, field(doc)
        return kept[id(doc)][1]

    return of


def _chat_options(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The options with which lm_eval's tasks put prompts into the chat template of a tokenizer.

    They are those of `lm_eval --apply_chat_template`. Raises ValueError without a template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "evaluation.chat_template is true, but the tokenizer of the base has no chat template: "
            "set it to false, or take a base that was trained on chats"
        )
    model = SimpleNamespace(tokenizer=tokenizer, chat_template_args={})
    return {
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "chat_template": partial(HFLM.apply_chat_template, model),
    }


def _set_examples(tasks: Mapping[str, ConfigurableTask], asked: Shots, seed: int) -> None:
    """Set the number of examples in each prompt of `tasks`, and the seed that draws them."""
    for name, task in tasks.items():
        number = shots_of(name, task.get_config("num_fewshot"), asked)
        task.set_config("num_fewshot", number)
        task.set_fewshot_seed(seed)


def _task_manager(
    tasks: Sequence[str], task_folder: str | Path | None, metadata: Mapping[str, str]
) -> TaskManager:
    if task_folder is not None:
        if not Path(task_folder).is_dir():
            raise FileNotFoundError(f"task folder {task_folder}: no such folder")
        own = TaskManager(
            include_path=str(task_folder), include_defaults=False, metadata=dict(metadata)
        )
        if set(tasks) <= set(own.all_tasks):
            return own
    everything = TaskManager(
        include_path=None if task_folder is None else str(task_folder), metadata=dict(metadata)
    )
    unknown = sorted(set(tasks) - set(everything.all_tasks))
    if unknown:
        raise ValueError(
            f"unknown tasks: {', '.join(unknown)}. Neither {task_folder} nor lm_eval has them; "
            f"there are {', '.join(own.all_tasks) if task_folder else 'lm_eval ls tasks'}"
        )
    return everything


def _refuse_other_tasks(name: str, task: ConfigurableTask) -> None:
    """Raise ValueError for a task other than multiple choice with one right answer."""
    reason = None
    if task.OUTPUT_TYPE != "multiple_choice":
        reason = f"its output_type is {task.OUTPUT_TYPE}, expected multiple_choice"
    elif callable(task.config.process_results):
        reason = "it computes its own metrics (process_results)"
    elif task.multiple_target:
        reason = "its items have several right answers"
    if reason:
        raise ValueError(
            f"task {name} cannot be tabulated item by item: {reason}. Run it with "
            "lm_eval.simple_evaluate(model=MaskedLM(...)) instead."
        )


def _choice_rows(name: str, task: ConfigurableTask, instances: Sequence[Instance]) -> list[tuple]:
    """The `ROW_COLUMNS` of each choice of an item, with hashes, lengths and gold as in lm_eval."""
    doc, doc_id = instances[0].doc, instances[0].doc_id
    choices, target = task.doc_to_choice(doc), task.doc_to_target(doc)
    # In partial evaluation (WinoGrande) the choices are parts of the contexts. The "text" of the
    # item is then the index of the right choice, and its "target" is the common continuation.
    gold = task.doc_to_text(doc) if task.multiple_input else target
    gold = choices.index(gold) if isinstance(gold, str) else int(gold)
    if not 0 <= gold < len(choices):
        raise ValueError(
            f"task {name}, doc {doc_id}: gold {gold} is no index of its {len(choices)} choices"
        )
    logged = json.dumps(doc, indent=2, default=utils.handle_non_serializable, ensure_ascii=False)
    texts = (logged, instances[0].args[0], str(target))
    hashes = [utils.hash_string(text) for text in texts]  # of document, prompt and target
    cluster = next((doc[name] for name in CLUSTER_FIELDS if name in doc), hashes[0])
    return [
        (name, doc_id, *hashes, index, gold, len(choice), len(choice.encode()), cluster)
        for index, choice in enumerate(choices)
    ]
