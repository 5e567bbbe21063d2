"""Optimizers that keep few bytes a weight, on one GPU and on several."""
