"""Items a second on a CPU: lm_eval's HFLM at its best batch size, and scoring by shared prompts.

    python benchmarks/scoring_cpu.py [--items 48] [--threads 1] [--quick]

A random model of 8 layers, width 512, vocabulary 32,000 scores HellaSwag-like items (a prompt of
about 75 tokens, four endings of about 28). Both sides get the same strings, so tokenization counts.
Repetitions are interleaved and medians reported: the machine may be doing other things. Prints one
JSON object (`make bench` keeps it in benchmarks/results/scoring_cpu.json); exits 1 when
log-likelihoods under `causal` differ from HFLM's by over 1e-4 nats.
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
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Ministral3Config, Ministral3ForCausalLM, PreTrainedTokenizerFast

from ablation.provenance.run_records import processor_name
from ablation.scoring.masked_lm import MaskedLM

VOCABULARY = 32_000


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word, w3 ... w31999."""
    specials = ["<unk>", "<s>", "</s>"]
    words = specials + [f"w{i}" for i in range(len(specials), VOCABULARY)]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def make_model() -> Ministral3ForCausalLM:
    torch.manual_seed(0)
    config = Ministral3Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "llama_4_scaling_beta": 0.0,
            "original_max_position_embeddings": 2048,
        },
        attn_implementation="sdpa",
    )
    return Ministral3ForCausalLM(config).eval()


def make_requests(items: int) -> list[Instance]:
    rng = random.Random(0)

    def words(mean: float, spread: float, least: int) -> str:
        count = max(least, round(rng.gauss(mean, spread)))
        return " ".join(f"w{rng.randrange(3, VOCABULARY)}" for _ in range(count))

    requests = []
    for item in range(items):
        prompt = words(75, 25, 12)
        for choice in range(4):
            requests.append(Instance("loglikelihood", {}, (prompt, " " + words(28, 9, 4)), choice))
            requests[-1].doc_id = item
    return requests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="8 items, 1 repeat, fewer batch sizes")
    args = parser.parse_args()
    items, repeats = (8, 1) if args.quick else (args.items, args.repeats)
    batch_sizes = (1, 16) if args.quick else (1, 2, 4, 8, 16, 32, 64)

    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    model, tokenizer, requests = make_model(), make_tokenizer(), make_requests(items)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)

    def run_stock(batch_size: int) -> list[tuple[float, bool]]:
        stock.batch_size_per_gpu = batch_size
        return stock.loglikelihood(requests, disable_tqdm=True)

    contestants: dict[str, Callable[[], list[tuple[float, bool]]]] = {
        f"hflm batch {size}": lambda size=size: run_stock(size) for size in batch_sizes
    }
    for mask in ("causal", "prefill_bidir"):
        contestants[f"ours {mask}"] = lambda mask=mask: MaskedLM(
            model, tokenizer, mask=mask
        ).loglikelihood(requests)

    seconds, _, answers = interleaved(contestants, repeats)
    rates = {name: items / taken for name, taken in seconds.items()}
    best = max((name for name in rates if name.startswith("hflm")), key=rates.__getitem__)
    uncached = HFLM(  # docs/footguns.md: its cache of logits scores some choices wrongly
        pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=8, logits_cache=False
    )
    answers["stock"] = uncached.loglikelihood(requests, disable_tqdm=True)
    difference = max(
        abs(ours[0] - theirs[0])
        for ours, theirs in zip(answers["ours causal"], answers["stock"], strict=True)
    )
    report = {
        "items": items,
        "repeats": repeats,
        "threads": args.threads,
        "processor": processor_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "items_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "best_stock": best,
        "speedup_causal": round(rates["ours causal"] / rates[best], 2),
        "speedup_prefill_bidir": round(rates["ours prefill_bidir"] / rates[best], 2),
        "largest_difference_nats": difference,
        "is_greedy_equal": all(
            ours[1] == theirs[1]
            for ours, theirs in zip(answers["ours causal"], answers["stock"], strict=True)
        ),
    }
    print(json.dumps(report, indent=2))
    return int(difference > 1e-4 or not report["is_greedy_equal"])


if __name__ == "__main__":
    sys.exit(main())
