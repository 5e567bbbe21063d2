"""Generated texts a second by this repository and by stock lm-eval; the functions are sections of
gpu.py."""

from __future__ import annotations

import random

import peers
import torch
from lm_eval.api.instance import Instance
from measuring import peak_gib, seconds
from workload import Size, make_model, make_tokenizer, with_wider_weights

from ablation.scoring.generation.evaluate import generated
from ablation.scoring.generation.greedy import GreedyDecoder
from ablation.scoring.masked_lm import MaskedLM

# In one word of 118: texts have a hundred tokens, as GSM8K's answers, and one in nine never ends.
STOPS = ["w77"]
LONGEST = 2048  # most tokens of a prompt with its text


def generation_ours(size: Size) -> dict:
    """Texts a second in refilled slots, under both masks."""
    contexts, new_tokens = _contexts(size), _new_tokens(size)
    lm = MaskedLM(
        with_wider_weights(make_model(size, "sdpa")), make_tokenizer(size), max_length=LONGEST
    )
    found: dict = {"texts": len(contexts), "new_tokens": new_tokens}
    for mask in ("causal", "prefill_bidir"):
        decoder = GreedyDecoder(lm.model, mask)
        generated(lm, decoder, "warm up", contexts[:4], STOPS, 8)
        decoder.slots = None
        texts: list = []

        def work(decoder=decoder, texts=texts) -> None:
            texts[:] = generated(lm, decoder, "texts", contexts, STOPS, new_tokens)

        found[mask] = round(len(contexts) / seconds(work), 3)
        found |= {"slots": decoder.slots, f"{mask}_tokens": sum(text.tokens for text in texts)}
        found[f"{mask}_ended"] = sum(text.ended for text in texts)
    return found | {"peak_gib": peak_gib()}


def generation_hflm(size: Size) -> dict:
    """Stock lm-eval at several batch sizes."""
    model, tokenizer = with_wider_weights(make_model(size, "sdpa")), make_tokenizer(size)
    kwargs = {"max_gen_toks": _new_tokens(size), "do_sample": False}
    requests = [
        Instance("generate_until", {}, (context, {"until": [*STOPS], **kwargs}), number)
        for number, context in enumerate(_contexts(size))
    ]
    found = {}
    for batch_size in (2,) if size.toy else (128, 256):
        stock = peers.hflm(model, tokenizer, batch_size)
        try:
            work = lambda: stock.generate_until(requests, disable_tqdm=True)  # noqa: B023, E731
            found[str(batch_size)] = round(len(requests) / seconds(work), 3)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    best = max(found, key=found.__getitem__)
    return {
        "best": found[best],
        "batch_size": int(best),
        "by_batch_size": found,
        "peak_gib": peak_gib(),
    }


def _new_tokens(size: Size) -> int:
    return 8 if size.toy else 256


def _contexts(size: Size) -> list[str]:
    """Prompts as long as those of GSM8K with five examples, about 800 tokens."""
    rng = random.Random(3)
    mean, spread = (16, 4) if size.toy else (800, 60)

    def words() -> str:
        count = max(4, round(rng.gauss(mean, spread)))
        return " ".join(f"w{rng.randrange(20, size.vocabulary)}" for _ in range(count))

    return [words() for _ in range(min(size.items, 256))]
