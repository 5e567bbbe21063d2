"""Several processes that work together, on one machine or several; nothing here is about models."""
