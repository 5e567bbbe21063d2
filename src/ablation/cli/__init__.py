"""The command `ablation`: one module a command, with a click command of the module's name."""
