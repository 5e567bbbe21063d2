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
from ablation.bridge.asking import answers, translate
from ablation.bridge.batches import Row, Words
from ablation.bridge.forwards import Meter
from ablation.bridge.generate import Generated, generate
from ablation.bridge.pair import Pair
from ablation.bridge.prompts import QUANTIZED
from ablation.bridge.published_evaluator import leaky_answers, leaky_correct
from ablation.bridge.scoring import score
from ablation.bridge.train import Split


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


def rows(made: Generated, records: Sequence[Mapping], **named: object) -> list[dict]:
    """One row a question: what was said, whether it ended, what it says, whether it is right."""
    found = []
    told = zip(made.texts, made.ended, records, strict=True)
    for item, (text, ended, record) in enumerate(told):
        said = score(text, record)
        found.append(
            {
                **named,
                "item": item,
                "text": text,
                "ended": int(ended),
                "answer": said.answer,
                "correct": int(said.correct),
                "f1": round(said.f1, 6),
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
    meter: Meter | None = None,
) -> list[dict]:
    """Rows of a cell's variants: `weights` are its `best` (dev-selected) and `last` ones.

    Controls and quantisation are of the best weights; a diffusion is sampled from several noises.
    """
    k, found, meter = translator.k, [], meter or Meter()
    target, words, records = pair.target, pair.target_words, test.records

    def asked(soft: Tensor, arm: str, noise: int = 0) -> None:
        with meter.section(arm, len(records)):
            made = answers(target, words, records, soft, recipe, k)
        found.extend(rows(made, records, arm=arm, noise=noise))

    translator.load_state_dict(weights["last"])
    last = translate(translator, test.states)
    asked(last, "bridged_last")
    if recipe["audit"]:
        for arm, soft in (("", last), ("_zero_soft_tokens", torch.zeros_like(last))):
            made = leaky_answers(target, words, records, soft, recipe)
            for row in rows(made, records, arm=f"published_evaluator{arm}", noise=0):
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
    pair: Pair,
    records: Sequence[Mapping],
    budgets: Sequence[int],
    options: Mapping,
    meter: Meter | None = None,
) -> list[dict]:
    """Rows of the arms without a translator, and of the identity control."""
    source, source_words, target, target_words = pair
    questions, meter = [r["question"] for r in records], meter or Meter()
    said: dict[tuple[str, int], Generated] = {}

    def ask(arm: str, prompted: Sequence[Row], soft=None, k: int = 0) -> list[str]:
        own = (source, source_words) if arm == "source_alone" else (target, target_words)
        with meter.section(f"{arm}{f'-k{k}' * bool(k)}", len(prompted)):
            said[arm, k] = generate(
                *own,
                prompted,
                soft,
                max_new_tokens=options["max_new_tokens"],
                batch_size=options["eval_batch"],
            )
        return said[arm, k].texts

    drafts = ask("source_alone", [source_words.text(q) for q in questions])
    heads = map(prompts.drafted_head, questions, drafts)
    texts = zip(questions, heads, strict=True)
    ask("target_alone", [target_words.text(q) for q in questions])
    ask("cascade", [target_words.text(q, head=head) for q, head in texts])
    ask("identity", *identity(target, target_words, questions))
    for k in budgets:
        ask("token_budget", [target_words.budget(k, q) for q in questions], k=k)
    return [
        row for (arm, k), made in said.items() for row in rows(made, records, arm=arm, k=k, noise=0)
    ]


def identity(model, words: Words, questions: Sequence[str]) -> tuple[list[Row], Sequence[Tensor]]:
    """Source = target: prompts with the target's own embeddings as soft tokens, one for each token.

    Must make it say what it says on the text, word for word: K is the question's whole length.
    """
    asked = [words.encode(prompts.problem(question)) for question in questions]
    rows = [words.bridged(len(i), "soft_only", q) for i, q in zip(asked, questions, strict=True)]
    return rows, Embedded(model, asked)


class Embedded(Sequence):
    """The target's embeddings of rows of ids, looked up when asked for: contexts are long."""

    def __init__(self, model, ids: Sequence[Sequence[int]]):
        self.table, self.ids = model.get_input_embeddings(), ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> Tensor:
        return self.table(torch.tensor(self.ids[at], device=self.table.weight.device)).detach()
