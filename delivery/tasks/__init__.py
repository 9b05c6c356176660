"""The fallback chain: Celery runs its tasks, the ledger holds its state."""
