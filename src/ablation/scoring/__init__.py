"""Log-likelihoods, evaluation with lm_eval, and generation."""
