"""What may be spent (`permission`) and what was spent (`ledger`)."""
