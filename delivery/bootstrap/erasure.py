"""Erasure of a user from the command line: the ledger, then the copies beside it.

Owns: the order. Never does: reach a gateway's memory: a connection of the user's ends with its
token.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from delivery.bootstrap.bus import make_copies
from delivery.bootstrap.ledger import open_ledger
from delivery.config import Settings
from delivery.domain.stores.ledger import Ledger
from delivery.errors import ChannelUnavailable, Unreachable

PAGE = 500
ACTOR = "command line"


def names_database(settings: Settings) -> bool:
    """Whether a database is set, and not just the data directory's file meant."""
    return settings.database_url is not None or settings.migrate_database_url is not None


def erase_user(settings: Settings, user_id: str) -> dict[str, Any]:
    """Erase a user.

    Returns:
        The answer of ``DELETE /v1/users/{id}``.

    Raises:
        ConfigError: no ledger at this version; ``LedgerUnavailable``, ``Unreachable``: the erasure
            is not complete, repeat it.
    """
    total = 0
    with open_ledger(settings, owner=True) as ledger:
        while count := ledger.erasure.erase_events(user_id, PAGE):
            total += count
        if settings.redis_url is not None:
            _forget_copies(settings, ledger, user_id)
        erased = ledger.erasure.erase_rest(user_id, events=total, actor=ACTOR)
    return {
        "user_id": user_id,
        "events": erased.events,
        "digests": erased.digests,
        "contact": erased.has_contact,
        "unkeyed_rows": erased.unkeyed_rows,
    }


def _forget_copies(settings: Settings, ledger: Ledger, user_id: str) -> None:
    with closing(make_copies(settings, ledger)) as copies:
        try:
            copies.forget(user_id)
        except ChannelUnavailable as error:
            raise Unreachable(f"{error}; the erasure is not complete: repeat it") from error
