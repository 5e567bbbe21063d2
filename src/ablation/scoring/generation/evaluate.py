"""Generates the texts of tasks with a model under a mask, and judges them item by item."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix
from transformers import GenerationConfig, PreTrainedModel

from ablation.console.progress import Progress
from ablation.data.generation.rows import ROW_COLUMNS, ROWS, TEXT_COLUMNS, TEXTS
from ablation.interventions.protocol import Intervention
from ablation.model.checkpoints import circumstances
from ablation.model.leak_audit import leak_audit
from ablation.provenance.atomic import atomic_path
from ablation.provenance.files import sha256_text, write_json
from ablation.scoring.generation.decoding_audit import (
    CannotGenerate,
    decoding_audit,
    longest_text,
)
from ablation.scoring.generation.greedy import GreedyDecoder
from ablation.scoring.generation.items import GenerationItems, cluster_of
from ablation.scoring.generation.stops import StopStrings
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.generation import EXACT_MATCH

LM_EVAL_KEYS = ("n-samples", "n-shot", "versions")
# Keys of a model's generation_config.json by which transformers' `generate`, and so HFLM, chooses
# other tokens than the most likely ones, even if it does not sample.
NOT_GREEDY = (
    *("repetition_penalty", "no_repeat_ngram_size", "encoder_repetition_penalty"),
    *("bad_words_ids", "force_words_ids", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "sequence_bias", "guidance_scale"),
    *("min_length", "min_new_tokens", "num_beams", "exponential_decay_length_penalty"),
)


class Text(NamedTuple):
    """A generated text, cut at its first stop string, and how it was generated."""

    text: str
    tokens: int
    ended: bool
    truncated: bool


class GenerationResult(NamedTuple):
    """The result of `evaluate_generation`.

    facts: the content of evaluation.json: {mask, leak_audit, intervention_audit, decoding_audit,
        rules: see `GenerationItems`, generation: the settings of each task, ignored: keys of the
        model's generation_config.json that greedy decoding leaves out}, facts about the tasks under
        lm_eval's names, and `lm_eval`, {task: {`exact_match,<filter>`: its value}}.
    rows, texts: one row per item and filter, with `ROW_COLUMNS` and `TEXT_COLUMNS`.
    circumstances: see `checkpoints.circumstances`, with the number of texts at a time.
    """

    facts: dict[str, Any]
    rows: pd.DataFrame
    texts: pd.DataFrame
    circumstances: dict[str, Any]

    def write(self, folder: str | Path) -> list[Path]:
        """Write evaluation.json and both files of rows in `folder`; return their paths."""
        home = Path(folder)
        write_json(home / "evaluation.json", self.facts)
        for name, frame in ((ROWS, self.rows), (TEXTS, self.texts)):
            with atomic_path(home / name) as scratch:
                frame.to_parquet(scratch, index=False)
        return [home / name for name in ("evaluation.json", ROWS, TEXTS)]


def evaluate_generation(
    model: PreTrainedModel,
    items: GenerationItems,
    mask: str,
    checkpoint: str = "",
    slots: int | None = None,
    label: str = "generation",
    intervention: Intervention | None = None,
    condition: str | None = None,
) -> GenerationResult:
    """Audit `mask` and decoding, then generate the texts of `items` and judge them.

    slots: see `GreedyDecoder`. The other arguments are those of `ablation.scoring.evaluate`.

    Raises NotInForce if the intervention is not in force, MaskNotObeyed, CannotGenerate, and the
    errors of `require_agreement`.
    """
    evidence = {} if intervention is None else intervention.audit(model)
    lm = MaskedLM(model, items.tokenizer, mask=mask, label=label)
    audit, decoding = leak_audit(model, mask), decoding_audit(model, mask)
    scored_under = condition or (intervention.name if intervention else mask)
    decoder = GreedyDecoder(model, mask, slots)
    texts: dict[str, list[Text]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for task, contexts in items.contexts.items():
        new_tokens = items.new_tokens[task] or lm.max_gen_toks
        settings[task] = {"until": items.stops[task], "max_gen_toks": new_tokens}
        texts[task] = generated(lm, decoder, task, contexts, items.stops[task], new_tokens)
    results = items.judged({task: [text.text for text in of] for task, of in texts.items()})
    rows, stored = _rows(items, results, texts)
    constant = {"mask": scored_under, "checkpoint": checkpoint}
    rows = rows.assign(**constant)[list(ROW_COLUMNS)].astype(ROW_COLUMNS)
    stored = stored.assign(mask=scored_under)[list(TEXT_COLUMNS)].astype(TEXT_COLUMNS)
    found = {
        task: {key: float(of[key]) for key in sorted(of) if key.startswith(f"{EXACT_MATCH},")}
        for task, of in results["results"].items()
    }
    facts = {
        "mask": scored_under,
        "leak_audit": audit.as_dict(),
        **({"intervention_audit": evidence} if evidence else {}),
        "decoding_audit": decoding,
        "rules": items.rules,
        "generation": settings,
        "ignored": ignored_settings(model),
        "lm_eval": found,
        **{key: results[key] for key in LM_EVAL_KEYS},
    }
    used = circumstances(model) | {"slots": decoder.slots}
    return GenerationResult(facts, rows, stored, used)


def generated(
    lm: MaskedLM,
    decoder: GreedyDecoder,
    task: str,
    contexts: Sequence[str],
    until: Sequence[str],
    new_tokens: int,
) -> list[Text]:
    """The text that follows each context, as `HFLM.generate_until` gives it one text at a time.

    Raises CannotGenerate if the model reads too few tokens.
    """
    room = lm.max_length - new_tokens
    if room < 1:
        raise CannotGenerate(
            f"{task}: {new_tokens} tokens may be generated (max_gen_toks), and the model reads "
            f"{lm.max_length} with the prompt. Lower max_gen_toks in the task file"
        )
    encoded = encode(lm, contexts)
    prompts = [ids[-room:] for ids in encoded]
    if empty := [number for number, ids in enumerate(prompts) if not ids]:
        raise CannotGenerate(
            f"{task}, item {empty[0]}: its prompt has no token, and the tokenizer puts no BOS "
            "before it. Give the task a prompt of words, or leave it out"
        )
    longest = max(map(len, prompts), default=0) + new_tokens
    if longest > (most := longest_text(lm.model) or longest):
        raise CannotGenerate(
            f"{task}: texts of {longest} tokens found, prompt included, but "
            f"{type(lm.model).__name__} is decoded as in one forward only up to {most}. Lower "
            "max_gen_toks or num_fewshot"
        )
    tokenizer = lm.tokenizer
    end = (
        None
        if tokenizer.eos_token_id is None
        else lm.tok_decode(tokenizer.eos_token_id, skip_special_tokens=False)
    )
    stops = StopStrings(tokenizer, handle_stop_sequences(list(until), end))
    progress = Progress(f"{lm.label} {task}", len(prompts))
    found = decoder.run(prompts, new_tokens, stops.reached, end_tokens(lm.model), progress.update)
    return [
        Text(stops.cut(lm.tok_decode(one.tokens)), len(one.tokens), one.ended, len(ids) > room)
        for one, ids in zip(found, encoded, strict=True)
    ]


def encode(lm: MaskedLM, contexts: Sequence[str]) -> list[list[int]]:
    """The token ids of each context, as HFLM encodes it for generation, where it is alone."""
    ids: list[list[int]] = [[] for _ in contexts]
    own = {"add_special_tokens": lm.add_bos_token} if lm.add_bos_token is not None else {}
    bos = getattr(lm.tokenizer, "bos_token", None)
    for has_bos, options in ((True, {"add_special_tokens": False}), (False, own)):
        chosen = [n for n, text in enumerate(contexts) if has_bos_prefix(text, bos) is has_bos]
        if chosen:
            found = lm.tokenizer([contexts[n] for n in chosen], **options)["input_ids"]
            for n, of_text in zip(chosen, found, strict=True):
                ids[n] = of_text
    return ids


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end every text of a model: those of its generation_config.json."""
    ends = _generation_config(model).eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def ignored_settings(model: PreTrainedModel) -> dict[str, Any]:
    """What else generation_config.json sets, which stock generation would follow."""
    config, stock = _generation_config(model), GenerationConfig()
    found = {key: getattr(config, key, None) for key in NOT_GREEDY}
    found = {k: v for k, v in found.items() if v not in (None, getattr(stock, k, None), 0, 1, [])}
    if found:
        named = ", ".join(f"{key}: {value}" for key, value in found.items())
        print(f"decoding is greedy: generation_config.json's {named} is left out", file=sys.stderr)
    return found


def _generation_config(model: PreTrainedModel) -> GenerationConfig:
    return model.generation_config or GenerationConfig.from_model_config(model.config)


def _rows(
    items: GenerationItems, results: Mapping[str, Any], texts: Mapping[str, Sequence[Text]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of judgements and of texts, in the order of tasks, items and filters."""
    rows, stored = [], []
    for task, of_task in texts.items():
        ordered = list(items.rules[task]["filters"])
        samples: list[Mapping[str, Any]] = sorted(
            results["samples"][task],
            key=lambda sample: (sample["doc_id"], ordered.index(sample["filter"])),
        )
        documents = list(dict.fromkeys(sample["doc_id"] for sample in samples))
        of_document = dict(zip(documents, of_task, strict=True))
        for sample in samples:
            text = of_document[sample["doc_id"]]
            key = {"task": task, "doc_id": sample["doc_id"], "filter": sample["filter"]}
            hashes = {name: sample[name] for name in ("doc_hash", "prompt_hash", "target_hash")}
            rows.append(
                key
                | hashes
                | {
                    EXACT_MATCH: sample[EXACT_MATCH] == 1,
                    "references": items.references(task, sample["doc"]),
                    "text_sha256": sha256_text(text.text),
                    "tokens": text.tokens,
                    "ended": text.ended,
                    "cluster": cluster_of(sample["doc"], sample["doc_hash"]),
                    "truncated": text.truncated,
                }
            )
            (answer,) = sample["filtered_resps"]
            stored.append(key | {"text": text.text, "answer": answer})
    return pd.DataFrame(rows), pd.DataFrame(stored)
