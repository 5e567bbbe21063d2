"""Generation tasks: greedy continuations after a masked prefill, with their exact match."""
