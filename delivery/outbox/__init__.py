"""The transactional outbox: events that leave with the caller's own transaction, or not at all.

``add`` writes a row of the table ``delivery_outbox`` with the caller's session or connection; the
relay (``delivery outbox``) carries it to a gateway once that transaction is committed. Never does:
commit, open a connection, talk to a gateway; an application that imports this loads no Celery, and
SQLAlchemy only if it uses it. See ``docs/outbox.md``.
"""

from __future__ import annotations

from delivery.outbox.adding import add
from delivery.outbox.row import Added
from delivery.outbox.schema import create, drop, statements

__all__ = ["Added", "add", "create", "drop", "statements"]
