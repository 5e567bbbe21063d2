"""The alternatives to this repository: stock HFLM, the published scorer and trainer, and TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, TrainerCallback
from transformers.optimization import Adafactor
from workload import STUDY, Size, make_model, make_samples, make_tokenizer

from ablation.model.packing import Example


def hflm(model: PreTrainedModel, tokenizer, batch_size: int, max_length: int = 2048) -> HFLM:
    """Stock lm-eval."""
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=max_length,
        backend="causal",
    )


@torch.no_grad()
def score_one_by_one(model: PreTrainedModel, items: Sequence[Example]) -> list[float]:
    """The published scorer's loop: one choice in each forward, log-softmax of all its logits."""
    found = []
    for item in items:
        for ending in item.continuations:
            ids = torch.tensor([[*item.prompt, *ending]], device=model.device)
            logprobs = torch.log_softmax(model(input_ids=ids).logits[:, :-1], -1)
            start = len(item.prompt) - 1
            picked = logprobs[:, start:].gather(-1, ids[:, start + 1 :, None])
            found.append(float(picked.sum()))
    return found


def adafactor(model: PreTrainedModel) -> Adafactor:
    """The published optimizer."""
    return Adafactor(
        model.parameters(),
        lr=STUDY.finetune.learning_rate,
        weight_decay=STUDY.finetune.weight_decay,
        scale_parameter=False,
        relative_step=False,
    )


def step_one_by_one(model: PreTrainedModel, optimizer, samples: Sequence[Example]) -> None:
    """The published step: one sample in each forward under a dense prefix mask, accumulated."""
    for sample in samples:
        (response,) = sample.continuations
        ids = torch.tensor([[*sample.prompt, *response]], device=model.device)
        length, prompt = ids.shape[1], len(sample.prompt)
        mask = torch.full((1, 1, length, length), torch.finfo(model.dtype).min, dtype=model.dtype)
        mask[0, 0, :prompt, :prompt] = 0
        for query in range(prompt, length):
            mask[0, 0, query, : query + 1] = 0
        labels = ids.clone()
        labels[:, :prompt] = -100
        loss = model(input_ids=ids, attention_mask=mask.to(model.device), labels=labels).loss
        (loss / len(samples)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def trl_trainer(size: Size, attention: str, liger: bool, steps: int, callback: TrainerCallback):
    """TRL's SFTTrainer: packed 4 x 4096, checkpointing, fused AdamW on bfloat16 weights."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    samples = make_samples(size, 3000)
    rows = [
        {
            "input_ids": [*s.prompt, *s.continuations[0]],
            "completion_mask": [0] * len(s.prompt) + [1] * len(s.continuations[0]),
        }
        for s in samples
    ]
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=4096,
        packing=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=steps,
        bf16=True,
        optim="adamw_torch_fused",
        learning_rate=STUDY.finetune.learning_rate,
        report_to=[],
        save_strategy="no",
        logging_steps=1000,
        use_liger_kernel=liger,
        gradient_checkpointing=True,
        completion_only_loss=True,
        disable_tqdm=True,
    )
    return SFTTrainer(
        model=make_model(size, attention),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(size),
        callbacks=[callback],
    )
