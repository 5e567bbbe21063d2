"""Seconds and memory of an item on a CPU as prompts grow: lm_eval's HFLM, and masks and a window.

    python benchmarks/long_prompts.py [--lengths 1024 2048] [--repeats 3] > result.json

A random Llama of 2 layers, width 256 and a vocabulary of 32,000 scores one item at a time: a prompt
and one of four choices of four tokens have the given length. Each measurement has a process of its
own and one thread, and the contestants take turns; medians are reported. Memory is what a
measurement adds to the process at its peak. Prompts of more than 8k tokens are measured once. Then
flex attention is measured alone, compiled (this needs g++), as GPU studies use it: it skips blocks
of pairs that a mask hides. Prints one JSON object, which `make bench-long` keeps and draws; exits 1
when log-likelihoods under `causal` differ from HFLM's by over 1e-3 nats.
"""

import argparse
import json
import logging
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from lm_eval.models.huggingface import HFLM
from scoring_cpu import VOCABULARY, make_tokenizer
from torch.nn.attention.flex_attention import flex_attention
from transformers import LlamaConfig, LlamaForCausalLM

from ablation.model.masks import TakenWindow, attention_mask, take_window, whole_masks
from ablation.model.packing import Example, pack
from ablation.provenance.run_records import processor_name
from ablation.scoring.masked_lm import MaskedLM

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)
CONTESTANTS = ("hflm", "causal", "prefill_bidir", "window")
CHOICES, CHOICE_TOKENS, WINDOW = 4, 4, 512
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2 * max(LENGTHS),
    "tie_word_embeddings": True,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    found: dict[tuple[int, str], list[dict]] = {}
    processes = multiprocessing.get_context("forkserver")  # it has imported this file once
    with processes.Pool(1, maxtasksperchild=1) as pool:
        for repeat in range(args.repeats):
            for length in args.lengths if repeat == 0 else [n for n in args.lengths if n <= 8192]:
                for name in CONTESTANTS:
                    (one,) = pool.map(measured, [(name, length)], chunksize=1)
                    found.setdefault((length, name), []).append(one)
                    shown = f"{one['seconds']:.2f} s, {one['peak_gib']:.2f} GiB"
                    print(f"{repeat + 1}/{args.repeats} {length} {name}: {shown}", file=sys.stderr)

        (blocks,) = pool.map(blocks_of, [args.lengths], chunksize=1)

    measures = ("seconds", "processor_seconds", "peak_gib")
    rows = [
        {"tokens": length, "scorer": name, "repeats": len(ones)}
        | {m: round(statistics.median(one[m] for one in ones), 3) for m in measures}
        for (length, name), ones in found.items()
    ]
    difference = max(
        abs(ours - theirs)
        for length in args.lengths
        for ours, theirs in zip(
            *(found[length, name][0]["loglikelihoods"] for name in ("causal", "hflm")), strict=True
        )
    )
    report = {
        "machine": processor_name(),
        "threads": 1,
        "device": "cpu",
        "model": "random Llama, 2 layers, width 256, vocabulary of 32,000, float32, sdpa",
        "window": WINDOW,
        "choices": CHOICES,
        "choice_tokens": CHOICE_TOKENS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "largest_difference_nats": difference,
        "rows": rows,
        "blocks": blocks,
    }
    print(json.dumps(report, indent=1))
    return int(difference > 1e-3)


def measured(task: tuple[str, int]) -> dict:
    """Seconds, peak memory and log-likelihoods of one item, after a short one to warm up."""
    name, length = task
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    score = scorer(name)
    score(item(64))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on (Linux)
    start, used = time.perf_counter(), time.process_time()
    answers = score(item(length))
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - used,
        "peak_gib": memory("VmHWM") - before,
        "loglikelihoods": [loglikelihood for loglikelihood, _ in answers],
    }


@torch.no_grad()
def blocks_of(lengths: Sequence[int]) -> list[dict]:
    """Processor seconds of flex attention alone, and the share of blocks that it computes.

    Four heads of width 64 attend over the row of one item; nothing else of a model runs.
    """
    torch.set_num_threads(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="flex_attention"))
    take_window(model, TakenWindow(WINDOW, "prefill"))
    found = []
    for length in lengths:
        torch.compiler.reset()  # each length has a kernel of its own
        attend = torch.compile(flex_attention, dynamic=False)
        requests = item(length)
        example = Example(requests[0][1], [choice for _, _, choice in requests])
        rows = pack([example], capacity=2 * length, keep_last=False)
        query, key, value = (torch.randn(1, 4, rows.doc.shape[1], 64) for _ in range(3))
        for name in CONTESTANTS[1:]:
            with nullcontext() if name == "window" else whole_masks(model):
                mask = attention_mask(model, "causal" if name == "window" else name, rows)
            attend(query, key, value, block_mask=mask)  # compiles
            used = time.process_time()
            attend(query, key, value, block_mask=mask)
            used = time.process_time() - used
            computed = int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum())
            share = computed / mask.kv_indices.shape[-1] ** 2
            row = {"tokens": length, "scorer": name, "share_of_blocks": round(share, 4)}
            found.append(row | {"processor_seconds": round(used, 4)})
            print(f"flex {length} {name}: {used:.2f} s, {share:.1%} of blocks", file=sys.stderr)
    return found


def scorer(name: str) -> Callable[[list], list[tuple[float, bool]]]:
    """What scores encoded requests with the random model."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="sdpa")).eval()
    tokenizer = make_tokenizer()
    if name == "hflm":
        stock = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
        return lambda requests: stock._loglikelihood_tokens(requests, disable_tqdm=True)
    if name == "window":
        take_window(model, TakenWindow(WINDOW, "prefill"))
    return MaskedLM(
        model, tokenizer, mask="causal" if name == "window" else name
    )._loglikelihood_tokens


def item(length: int) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """The requests of one item: a prompt of random tokens, and four choices."""
    rng = random.Random(length)

    def words(number: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(number)]

    prompt = words(length - CHOICE_TOKENS)
    return [(("", ""), prompt, words(CHOICE_TOKENS)) for _ in range(CHOICES)]


def memory(field: str) -> float:
    """A field of /proc/self/status in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**20


if __name__ == "__main__":
    sys.exit(main())
