"""Whether a model computes what the checkpoint and the mask say, seen before it is used."""
