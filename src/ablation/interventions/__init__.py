"""What a study takes away from a model, one file a kind, and how it is seen to be away.

`ablation.config.interventions` has the settings of each kind. Masks are interventions too: every
study has them, and they are rules for the rows of a forward.
"""
