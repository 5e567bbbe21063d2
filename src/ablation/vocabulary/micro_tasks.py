"""The names of the tasks of the micro-world, in the order of its scenes."""

TASKS = (
    "micro_hellaswag",
    "micro_piqa",
    "micro_arc_easy",
    "micro_arc_challenge",
    "micro_winogrande",
)
