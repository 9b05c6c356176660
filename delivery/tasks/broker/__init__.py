"""Celery: its app and tasks, its workers, and what goes to the broker. The rest of the chain knows
none of it."""
