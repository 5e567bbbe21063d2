"""The names of families of finetuning records that nothing is scored on (docs/studies/dose.md)."""

# Requests of a form that no pretraining document has, in two orders of which a dose takes the first
# few. Both orders have the same eight kinds of requests in other words, so that a dose is not one
# lucky family.
FIRST_ORDER = ("gift", "meal", "room", "arrival", "colours", "echo", "absent", "turn")
SECOND_ORDER = ("race", "foods", "blow", "list", "paint", "lost", "row", "hideout")
NEVER_SEEN = FIRST_ORDER + SECOND_ORDER

# Requests whose text is a part of pretraining documents: of registers, of statements of facts, and
# of documents about pets.
SEEN = ("recall_pets", "recall_tools", "statement", "first_hop")

FAMILIES = NEVER_SEEN + SEEN
