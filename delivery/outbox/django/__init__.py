"""The outbox as a Django app: ``INSTALLED_APPS = [..., "delivery.outbox.django"]`` and ``migrate``.

Owns: the migration, and ``add`` for a database by its alias. Never does: models; a row is written
with Django's own connection, in the transaction that is open there (``transaction.atomic``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delivery.outbox.adding import add as _add


def add(
    type: str,
    data: Mapping[str, Any] | None = None,
    *,
    user_id: str,
    run_id: str,
    using: str = "default",
    **fields: Any,
) -> str:
    """Add an event to the transaction of a database of Django; see ``delivery.outbox.add``.

    Args:
        using: the alias of the database.

    Returns:
        The event's id.
    """
    from django.db import connections

    added: str = _add(connections[using], type, data, user_id=user_id, run_id=run_id, **fields)
    return added
