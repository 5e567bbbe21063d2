"""Finetuning: trainer, optimizers, checkpoints, early stopping."""
