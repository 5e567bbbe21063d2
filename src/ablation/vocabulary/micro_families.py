"""The names of families of finetuning records that nothing is scored on (docs/studies/dose.md)."""

# Requests of a form that no pretraining document has, in two orders of which a dose takes the first
# few. Both orders have the same kinds of requests, so that a dose is not one lucky family.
FIRST_ORDER = ("reverse", "lookup", "odd", "count", "missing", "swap", "alternate", "last")
SECOND_ORDER = ("met", "copy", "filter", "longer", "twice", "yesno", "replace", "next")
NEVER_SEEN = FIRST_ORDER + SECOND_ORDER

# Requests whose text is a part of pretraining documents: of registers, of statements of facts, and
# of documents about pets.
SEEN = ("recall_pets", "recall_tools", "statement", "first_hop")

FAMILIES = NEVER_SEEN + SEEN
