"""Every arm and control of a cell on the same questions; nothing here is given a gold answer.

Arms beside the bridge: each model alone on the text, the target on as many tokens of text as there
are soft tokens, and the cascade, in which the source's answer is handed on as text. Controls take
the source out of the soft tokens, in four ways, or put the target's own reading in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

import torch
from torch import Tensor, nn

from ablation.bridge import prompts
from ablation.bridge.batches import Row, Words
from ablation.bridge.generate import generate
from ablation.bridge.pair import Pair
from ablation.bridge.published_evaluator import leaky_answers, leaky_correct
from ablation.bridge.train import Split, answers, translate

CONTROLS = ("shuffled_source", "zero_soft_tokens", "mean_soft_tokens")  # and recipe source_free
QUANTIZED = {"int8": 8, "int4": 4}


def shuffled(count: int) -> list[int]:
    """A fixed order in which no question keeps its own source."""
    order = list(range(count))
    Random("shuffled source").shuffle(order)
    return [order[(order.index(i) + 1) % count] for i in range(count)]


def quantized(soft: Tensor, bits: int) -> Tensor:
    """Soft tokens rounded to `bits`, each by a scale of its own: its largest is 2^(bits-1)-1."""
    top = 2 ** (bits - 1) - 1
    scale = soft.abs().amax(-1, keepdim=True).clamp_min(1e-12) / top
    return (soft / scale).round().clamp(-top, top) * scale


def soft_variants(
    translator: nn.Module, test: Split, train_states: Sequence[Tensor], noise_seed: int
) -> dict[str, Callable[[], Tensor]]:
    """{variant: soft tokens [questions, K, width]}, made when asked for."""
    own = translate(translator, test.states, noise_seed)

    def mean() -> Tensor:
        seen = translate(translator, train_states, noise_seed)
        return seen.mean(0, keepdim=True).expand_as(own)

    return {
        "bridged": lambda: own,
        "shuffled_source": lambda: own[torch.tensor(shuffled(len(own)), device=own.device)],
        "zero_soft_tokens": lambda: torch.zeros_like(own),
        "mean_soft_tokens": mean,
        **{name: (lambda b=bits: quantized(own, b)) for name, bits in QUANTIZED.items()},
    }


def rows(texts: Sequence[str], records: Sequence[Mapping], **named: object) -> list[dict]:
    """One row a question: what was said, what it says, whether it is right."""
    found = []
    for item, (text, record) in enumerate(zip(texts, records, strict=True)):
        said = prompts.extracted(text)
        found.append(
            {
                **named,
                "item": item,
                "text": text,
                "answer": said,
                "correct": int(prompts.exact_match(said, record["answer"])),
                "f1": round(prompts.f1(said, record["answer"]), 6),
            }
        )
    return found


def evaluate_cell(
    pair: Pair,
    translator: nn.Module,
    weights: Mapping[str, Mapping[str, Tensor]],
    recipe: Mapping,
    test: Split,
    train_states: Sequence[Tensor],
) -> list[dict]:
    """Rows of a cell's variants: `weights` are its `best` (dev-selected) and `last` ones.

    Controls and quantisation are of the best weights; a diffusion is sampled from several noises.
    """
    k, found = translator.k, []
    target, words, records = pair.target, pair.target_words, test.records

    def asked(soft: Tensor, arm: str, noise: int = 0) -> None:
        texts = answers(target, words, records, soft, recipe, k)
        found.extend(rows(texts, records, arm=arm, noise=noise))

    translator.load_state_dict(weights["last"])
    last = translate(translator, test.states)
    asked(last, "bridged_last")
    if recipe["audit"]:
        for arm, soft in (("", last), ("_zero_soft_tokens", torch.zeros_like(last))):
            texts = leaky_answers(target, words, records, soft, recipe)
            for row in rows(texts, records, arm=f"published_evaluator{arm}", noise=0):
                answer = records[row["item"]]["answer"]
                found.append(row | {"correct": int(leaky_correct(row["text"], answer))})
        asked(torch.zeros_like(last), "bridged_last_zero_soft_tokens")
    translator.load_state_dict(weights["best"])
    variants = soft_variants(translator, test, train_states, 0)
    wanted = variants if recipe["controls"] else ("bridged",)
    for arm in wanted:
        asked(variants[arm](), arm)
    if recipe["translator"]["kind"] == "diffusion":
        for noise in range(1, recipe["noise_seeds"]):
            asked(translate(translator, test.states, noise), "bridged", noise)
    return found


def alone(
    pair: Pair, records: Sequence[Mapping], budgets: Sequence[int], options: Mapping
) -> list[dict]:
    """Rows of the arms without a translator, and of the identity control."""
    source, source_words, target, target_words = pair
    questions = [r["question"] for r in records]

    def said(model, words: Words, prompted: Sequence[Row]) -> list[str]:
        return generate(
            model,
            words,
            prompted,
            max_new_tokens=options["max_new_tokens"],
            batch_size=options["eval_batch"],
        ).texts

    drafts = said(source, source_words, [source_words.text(q) for q in questions])
    heads = [
        prompts.drafted_head(q, prompts.extracted(d) or d.strip())
        for q, d in zip(questions, drafts, strict=True)
    ]
    texts = {
        ("source_alone", 0): drafts,
        ("target_alone", 0): said(target, target_words, [target_words.text(q) for q in questions]),
        ("cascade", 0): said(
            target,
            target_words,
            [target_words.text(q, head=h) for q, h in zip(questions, heads, strict=True)],
        ),
        ("identity", 0): identity(target, target_words, questions, options),
    }
    for k in budgets:
        budget = [target_words.budget(k, q) for q in questions]
        texts["token_budget", k] = said(target, target_words, budget)
    return [row for (arm, k), t in texts.items() for row in rows(t, records, arm=arm, k=k, noise=0)]


def identity(model, words: Words, questions: Sequence[str], options: Mapping) -> list[str]:
    """Source = target, and its own embeddings of the question as soft tokens, one for each token.

    Must say what the target says on the text, word for word: K is the question's whole length.
    """
    found: dict[int, str] = {}
    by_length: dict[int, list[int]] = {}
    for at, question in enumerate(questions):
        by_length.setdefault(len(words.encode(prompts.problem(question))), []).append(at)
    for k, members in by_length.items():
        ids = [words.encode(prompts.problem(questions[at])) for at in members]
        soft = model.get_input_embeddings()(torch.tensor(ids, device=model.device)).detach()
        said = generate(
            model,
            words,
            [words.bridged(k, "soft_only", questions[at]) for at in members],
            soft,
            max_new_tokens=options["max_new_tokens"],
            batch_size=options["eval_batch"],
        ).texts
        found |= dict(zip(members, said, strict=True))
    return [found[at] for at in range(len(questions))]
