"""An independent implementation of the published protocol: items from raw documents, and scores.

It imports nothing from the code that it checks. Each choice takes one forward.
"""

import torch


def squeeze(text):
    return " ".join(text.split())


def items(benchmark, documents):
    """[(prompt, continuations, gold)] of raw documents."""
    made = []
    for d in documents:
        if benchmark == "hellaswag":
            prompt = squeeze(d["activity_label"] + ": " + d["ctx_a"] + " " + d["ctx_b"])
            made.append((prompt, [" " + squeeze(e) for e in d["endings"]], int(d["label"])))
        elif benchmark == "piqa":
            continuations = [" " + squeeze(d[name]) for name in ("sol1", "sol2")]
            made.append((squeeze(d["goal"]) + "\nAnswer:", continuations, d["label"]))
        elif benchmark.startswith("arc"):
            if d["answerKey"] in d["choices"]["label"]:
                continuations = [" " + squeeze(text) for text in d["choices"]["text"]]
                gold = d["choices"]["label"].index(d["answerKey"])
                made.append((squeeze(d["question"]) + "\nAnswer:", continuations, gold))
        elif "_" in d["sentence"]:
            cut = d["sentence"].index("_")
            before, rest = d["sentence"][:cut], d["sentence"][cut + 1 :]
            made.append((before, [d["option1"] + rest, d["option2"] + rest], int(d["answer"]) - 1))
    return made


def seen(mask, tokens, prompt_tokens):
    """[tokens, tokens]: 0 where a query attends to a key, and the lowest number elsewhere."""
    position = torch.arange(tokens)
    allowed = position[None] <= position[:, None]
    if mask == "full_bidir":
        allowed = torch.ones_like(allowed)
    if mask == "prefill_bidir":
        allowed = allowed | (position < prompt_tokens)[None] & (position < prompt_tokens)[:, None]
    return torch.zeros(tokens, tokens).masked_fill(~allowed, torch.finfo(torch.float32).min)


@torch.no_grad()
def score(model, tokenizer, prompt, continuation, mask, dtype):
    """Mean log-probability of the tokens after the prompt's; `model` with eager attention."""
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]])
    if ids.shape[1] <= len(prompt_ids):
        return float("-inf")
    attention = seen(mask, ids.shape[1], len(prompt_ids)).to(model.dtype)[None, None]
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[0, :-1]
    logprobs = logits.to(dtype).log_softmax(-1)
    first = max(len(prompt_ids) - 1, 0)
    picked = logprobs[first:].gather(1, ids[0, first + 1 :, None])[:, 0]
    return picked.sum().item() / max(len(picked), 1)
