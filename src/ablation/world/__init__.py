"""The micro-world: a small base model, five tasks and finetuning data made from nothing.

`scenes` says what can happen, `corpus` tells it (pretraining documents, Alpaca records), `tasks`
asks about it (multiple-choice items), `baselines` answers without reading order, `tokenizer` and
`pretrain` make the base model. Only the last two need torch or transformers.
"""
