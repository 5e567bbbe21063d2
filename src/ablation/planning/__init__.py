"""What is stale, what it would take and what it would cost."""
