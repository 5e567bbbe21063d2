import torch
from tiny import tiny_model, tiny_tokenizer
def load(dtype="float32"):
    tokenizer = tiny_tokenizer()
    return tiny_model("ministral3", vocabulary=len(tokenizer)).to(getattr(torch, dtype)), tokenizer
