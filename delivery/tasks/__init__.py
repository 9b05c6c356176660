"""The fallback chain at work: Celery executes, the ledger knows."""
