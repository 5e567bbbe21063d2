"""Scoring by this repository and by others; functions of one argument are sections of gpu.py."""

from __future__ import annotations

import copy
import time

import peers
import torch
from measuring import peak_gib, rate, seconds
from workload import STUDY, Size, as_ids, as_strings, make_items, make_model, make_tokenizer

from ablation.model.packing import Example
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import CAUSAL

MASKS = (CAUSAL, STUDY.recipes["3B"].train_mask)
LONGEST = 16_384  # most tokens of an item


def our_scorer(size: Size, mask: str, **options) -> tuple[MaskedLM, torch.nn.Module]:
    model = make_model(size)
    options = {"row_tokens": STUDY.evaluation.row_tokens, "max_length": LONGEST} | options
    return MaskedLM(model, make_tokenizer(size), mask=mask, **options), model


def scoring_hflm(size: Size) -> dict:
    """Stock lm-eval at several batch sizes."""
    model, tokenizer = make_model(size, "sdpa"), make_tokenizer(size)
    items = make_items(size, size.items)
    found = {}
    for batch_size in (2,) if size.toy else (64, 128, 256):
        stock = peers.hflm(model, tokenizer, batch_size)
        stock._loglikelihood_tokens(as_ids(items[:64]), disable_tqdm=True)
        work = lambda: stock._loglikelihood_tokens(as_ids(items), disable_tqdm=True)  # noqa: B023, E731
        found[str(batch_size)] = round(len(items) / seconds(work), 2)
    best = max(found, key=found.get)
    stock, requests = peers.hflm(model, tokenizer, int(best)), as_strings(items)
    strings = seconds(lambda: stock.loglikelihood(requests, disable_tqdm=True))
    return {
        "best": found[best],
        "batch_size": int(best),
        "by_batch_size": found,
        "from_strings": round(len(items) / strings, 2),
        "peak_gib": peak_gib(),
    }


def scoring_seed_loop(size: Size) -> dict:
    """The published scorer: one choice in each forward."""
    model, items = make_model(size, "sdpa"), make_items(size, size.loop_items)
    peers.score_one_by_one(model, items[:2])
    taken = seconds(lambda: peers.score_one_by_one(model, items))
    return {"items_per_s": round(len(items) / taken, 3), "items": len(items)}


def scoring_ours(size: Size) -> dict:
    """This repository's scorer under both masks."""
    items = make_items(size, size.items)
    lm, _ = our_scorer(size, MASKS[0])
    ids, strings, found = as_ids(items), as_strings(items), {}
    for mask in MASKS:
        lm.mask = mask
        begun = time.perf_counter()
        lm._loglikelihood_tokens(ids)
        found[f"{mask}_first_s"] = round(time.perf_counter() - begun, 1)  # compiles
        found[mask] = rate(len(items), lambda: lm._loglikelihood_tokens(ids))
        found[f"{mask}_from_strings"] = rate(len(items), lambda: lm.loglikelihood(strings))
    tokens = sum(len(i.prompt) + sum(map(len, i.continuations)) for i in items)
    return found | {"row_tokens": lm.row_tokens, "tokens": tokens, "peak_gib": peak_gib()}


def scoring_error(size: Size) -> dict:
    """|difference| / |log-likelihoods|, compared with the same weights in float32."""
    items = make_items(size, size.checked_items)
    ids, tokenizer = as_ids(items), make_tokenizer(size)

    def loglikelihoods(lm) -> torch.Tensor:
        return torch.tensor([x for x, _ in lm._loglikelihood_tokens(ids, disable_tqdm=True)])

    lm, model = our_scorer(size, MASKS[0])
    ours = {}
    for mask in MASKS:
        lm.mask = mask
        ours[mask] = loglikelihoods(lm)
    del lm, model
    model = make_model(size, "sdpa")
    stock = loglikelihoods(peers.hflm(model, tokenizer, 16))
    plain = copy.deepcopy(model).float()
    exact = MaskedLM(plain, tokenizer, row_tokens=512, batch_tokens=2048)
    reference = {}
    for mask in MASKS:
        exact.mask = mask
        reference[mask] = loglikelihoods(exact)

    def error(found: torch.Tensor, mask: str) -> float:
        return float(f"{((found - reference[mask]).norm() / reference[mask].norm()).item():.3g}")

    return {
        "ours": error(ours["causal"], "causal"),
        "ours_prefill_bidir": error(ours["prefill_bidir"], "prefill_bidir"),
        "hflm": error(stock, "causal"),
        "items": len(items),
    }


def scoring_growth(size: Size) -> dict:
    """Items and tokens a second at 1, 2 and 4 times the work, by prompt length and row width."""
    lm, _ = our_scorer(size, "prefill_bidir")
    found = {"work": [], "prompt": [], "row": []}

    def measured(items: list[Example]) -> dict:
        ids = as_ids(items)
        tokens = sum(len(i.prompt) + sum(map(len, i.continuations)) for i in items)
        per_s = rate(len(items), lambda: lm._loglikelihood_tokens(ids), repeats=2)
        return {
            "items": len(items),
            "items_per_s": per_s,
            "tokens_per_s": round(per_s * tokens / len(items)),
        }

    for times in (1, 2, 4):
        found["work"].append({"times": times} | measured(make_items(size, times * size.items)))
    for prompt in size.prompt_lengths:
        count = max(4, size.growth_tokens // (prompt + 112))
        found["prompt"].append(
            {"prompt_tokens": prompt} | measured(make_items(size, count, prompt))
        )
    for row_tokens in (256,) if size.toy else (4096, 8192, 8448, 16_384):
        lm.row_tokens = row_tokens
        found["row"].append({"row_tokens": row_tokens} | measured(make_items(size, size.items)))
    return found
