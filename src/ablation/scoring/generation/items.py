"""The items of generation tasks, which lm_eval builds, and its judgements on generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as lm_eval_evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from ablation.data.generation.exact_match import FIRST, reference
from ablation.data.generation.tasks import generation_reason
from ablation.data.shots import Shots
from ablation.scoring.items import (  # renaming them would make every score of choices stale
    CLUSTER_FIELDS,
    BuiltTask,
    _chat_options,
    _set_examples,
    _task_manager,
    _templates_compiled_once,
)
from ablation.scoring.local_copies import local_copies
from ablation.vocabulary.generation import EXACT_MATCH


class GenerationItems:
    """The items of generation tasks.

    The arguments are those of `ablation.scoring.items.Items`, but for the folder of the
    micro-world's items, `world_folder`, which is passed to tasks as metadata. Raises
    FileNotFoundError for a missing task folder, and ValueError for a task whose exact match is no
    function of a greedy text.

    contexts: {task: the prompt of each item}.
    stops, new_tokens: {task: its stop strings, and the most tokens of a text, None for HFLM's}.
    rules: {task: how an answer is taken out of a text and compared}, as evaluation.json holds it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[str],
        task_folder: str | Path | None = None,
        data_folder: str | Path | None = None,
        world_folder: str | Path | None = None,
        limit: int | None = None,
        num_fewshot: Shots = None,
        chat_template: bool = False,
        fewshot_seed: int = 1234,
    ) -> None:
        own = world_folder or data_folder
        metadata = {} if own is None else {"data_folder": str(own)}
        manager = _task_manager(tasks, task_folder, metadata)
        self.tokenizer = tokenizer
        chat = _chat_options(tokenizer) if chat_template else {}
        with local_copies(data_folder, num_fewshot):
            loaded = manager.load(list(tasks))
        _set_examples(loaded["tasks"], num_fewshot, fewshot_seed)
        self._loaded: dict[str, Any] = {"groups": loaded["groups"], "tasks": {}}
        self.contexts: dict[str, list[str]] = {}
        self.stops: dict[str, list[str]] = {}
        self.new_tokens: dict[str, int | None] = {}
        self.rules: dict[str, dict[str, Any]] = {}
        for name, task in loaded["tasks"].items():
            if why := generation_reason(task.config.to_dict()):
                raise ValueError(f"task {name} cannot be tabulated item by item: {why}")
            with _templates_compiled_once():
                built = self._loaded["tasks"][name] = BuiltTask(task, limit, chat)
            self.contexts[name] = [instance.args[0] for of in built.items for instance in of]
            # Without a number of tokens in the task file, the model's own default counts.
            settings = normalize_gen_kwargs(task.config.generation_kwargs, 0)
            self.stops[name] = list(settings["until"])
            self.new_tokens[name] = settings["max_gen_toks"] or None
            self.rules[name] = {
                "filters": _filters(task),
                EXACT_MATCH: dict(task._metric_fn_kwargs[EXACT_MATCH]),
            }

    def judged(self, texts: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
        """lm_eval's results of these texts, with its samples: one for each item and filter."""
        every = [text for name in self.contexts for text in texts[name]]
        with _templates_compiled_once():
            results: Mapping[str, Any] = lm_eval_evaluate(
                _Texts(every), self._loaded, bootstrap_iters=0, log_samples=True
            )
        return results

    def references(self, task: str, doc: Mapping[str, Any]) -> str:
        """The hashes of the right answers of an item."""
        of_task: ConfigurableTask = self._loaded["tasks"][task]
        gold = of_task.doc_to_target(doc)
        if of_task.config.doc_to_choice is not None:
            gold = of_task.doc_to_choice(doc)[gold]
        right = gold if isinstance(gold, list) else [gold]
        options = self.rules[task][EXACT_MATCH]
        return " ".join(sorted({reference(str(answer), options) for answer in right}))


def cluster_of(doc: Mapping[str, Any], doc_hash: str) -> str:
    """The cluster of an item: items of one are no independent draws."""
    return str(next((doc[name] for name in CLUSTER_FIELDS if name in doc), doc_hash))


def _filters(task: ConfigurableTask) -> dict[str, list[dict[str, Any]]]:
    named = {entry["name"]: entry["filter"] for entry in task.config.filter_list or ()}
    found = {name: [dict(step) for step in steps] for name, steps in named.items()}
    return found or {"none": [{"function": FIRST}]}


class _Texts(LM):
    """A model that has generated all texts already."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self._texts = list(texts)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        return self._texts

    loglikelihood = loglikelihood_rolling = generate_until
