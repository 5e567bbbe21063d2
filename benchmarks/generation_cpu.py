"""Texts a second on a CPU: lm_eval's HFLM at its best batch size, and decoding in refilled slots.

    python benchmarks/generation_cpu.py [--items 48] [--threads 1] [--quick]

The random model of scoring_cpu.py continues prompts of about 60 words greedily. A text ends at a
stop string, which some words of the vocabulary hold, or after 128 tokens: as with a real base, many
texts are short, and some never stop. Both sides get the same strings. Repetitions are interleaved
and medians reported, of the time on the clock and of the processor's: the machine may be doing
other things. Prints one JSON object (`make bench` keeps it in benchmarks/results/); exits 1 when a
text under `causal` is not that of HFLM.
"""

import argparse
import json
import logging
import random
import sys
from collections.abc import Callable

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from measuring import interleaved
from scoring_cpu import VOCABULARY, make_model, make_tokenizer
from workload import with_wider_weights

from ablation.provenance.run_records import processor_name
from ablation.scoring.generation.evaluate import generated
from ablation.scoring.generation.greedy import GreedyDecoder
from ablation.scoring.masked_lm import MaskedLM

STOPS, NEW_TOKENS = ["w7"], 128  # `w7` begins every ninth word of the vocabulary


def make_contexts(items: int) -> list[str]:
    """Prompts of 60 words on average, as the questions of GSM8K without examples."""
    rng = random.Random(0)
    contexts = []
    for _ in range(items):
        count = max(12, round(rng.gauss(60, 20)))
        words = " ".join(f"w{rng.randrange(3, VOCABULARY)}" for _ in range(count))
        contexts.append(f"w100 {words} w200")
    return contexts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", help="HFLM's batch sizes")
    parser.add_argument("--quick", action="store_true", help="8 items, 1 repeat, fewer batch sizes")
    args = parser.parse_args()
    items, repeats = (8, 1) if args.quick else (args.items, args.repeats)
    batch_sizes = args.batches or ([1, 8] if args.quick else [1, 4, 8, 16, 32, 48])

    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    model, tokenizer = with_wider_weights(make_model()), make_tokenizer()
    contexts = make_contexts(items)
    tokenizer.pad_token = tokenizer.eos_token
    stock = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
    settings = {"until": STOPS, "max_gen_toks": NEW_TOKENS, "do_sample": False}
    lm = MaskedLM(model, tokenizer, label="ours")

    def run_stock(batch_size: int) -> list[str]:
        stock.batch_size_per_gpu = batch_size
        requests = [
            Instance("generate_until", {}, (context, dict(settings, until=list(STOPS))), number)
            for number, context in enumerate(contexts)
        ]
        return stock.generate_until(requests, disable_tqdm=True)

    def run_ours(mask: str) -> list[str]:
        decoder = GreedyDecoder(model, mask)
        texts = generated(lm, decoder, "gsm", contexts, STOPS, NEW_TOKENS)
        return [text.text for text in texts]

    contestants: dict[str, Callable[[], list[str]]] = {
        f"hflm batch {size}": lambda size=size: run_stock(size) for size in batch_sizes
    }
    for mask in ("causal", "prefill_bidir"):
        contestants[f"ours {mask}"] = lambda mask=mask: run_ours(mask)

    seconds, costs, answers = interleaved(contestants, repeats)
    rates = {name: items / taken for name, taken in seconds.items()}
    stock_names = [name for name in rates if name.startswith("hflm")]
    best = max(stock_names, key=rates.__getitem__)
    cheapest = min(stock_names, key=costs.__getitem__)
    lengths = sorted(len(text.split()) for text in answers["ours causal"])
    report = {
        "items": items,
        "repeats": repeats,
        "threads": args.threads,
        "processor": processor_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "words_of_texts": {"median": lengths[items // 2], "mean": round(sum(lengths) / items, 1)},
        "longest_texts": sum(length >= NEW_TOKENS - 1 for length in lengths),
        "texts_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "best_stock": best,
        "speedup_causal": round(rates["ours causal"] / rates[best], 2),
        "speedup_prefill_bidir": round(rates["ours prefill_bidir"] / rates[best], 2),
        "processor_seconds": {name: round(cost, 2) for name, cost in costs.items()},
        "processor_speedup_causal": round(costs[cheapest] / costs["ours causal"], 2),
        "processor_speedup_prefill_bidir": round(costs[cheapest] / costs["ours prefill_bidir"], 2),
        "texts_equal": sum(
            ours == theirs
            for ours, theirs in zip(answers["ours causal"], answers[stock_names[0]], strict=True)
        ),
    }
    print(json.dumps(report, indent=2))
    return int(report["texts_equal"] < items)


if __name__ == "__main__":
    sys.exit(main())
