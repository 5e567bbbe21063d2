"""The command `ablation`: one module a command, each with `add` and `run`."""
