"""Messages as they were handed to a provider, for the days that the installation keeps them.

Owns: their rows. Never does: keep a link's token: a reader of the ledger must not be able to
confirm or unsubscribe in a user's name.
"""

from __future__ import annotations

import re
from datetime import timedelta

import sqlalchemy as sa

from delivery.domain.records import Rendered, SentMessage
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.rows import AnyRow, is_id
from delivery.ledger.sql.tables import attempts, sent_messages

MAX_CHARS = 256 * 1024
MAX_OF_EVENT = 50
TRIMMED = 1_000
"""Rows that one call deletes, at most."""
_TOKEN = re.compile(r"/(confirm|unsubscribe|verify)/[A-Za-z0-9._~%=-]+")


class SentMessageSql:
    """``SentMessageStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(
        self, digest_id: str, user_id: str, channel: str, to: str, number: int, content: Rendered
    ) -> None:
        """See the port."""
        with self._database.write() as connection:
            connection.execute(
                sa.insert(sent_messages).values(
                    digest_id=digest_id,
                    user_id=user_id,
                    channel=channel,
                    to=to,
                    number=number,
                    subject=content.subject,
                    text=_without_tokens(content.text),
                    html=None if content.html is None else _without_tokens(content.html),
                    at=self._database.now(connection),
                )
            )

    def of_event(self, event_id: str) -> list[SentMessage]:
        """See the port."""
        if not is_id(event_id):
            return []
        carried = (
            sa.select(attempts.c.digest_id)
            .where(attempts.c.event_id == event_id, attempts.c.digest_id.isnot(None))
            .distinct()
        )
        with self._database.read() as connection:
            ids = connection.execute(carried).scalars().all()
            query = (
                sa.select(sent_messages)
                .where(any_of(sent_messages.c.digest_id, ids))
                .order_by(sent_messages.c.id)
                .limit(MAX_OF_EVENT)
            )
            return [_message(row) for row in connection.execute(query)] if ids else []

    def get(self, message_id: int) -> SentMessage | None:
        """See the port."""
        query = sa.select(sent_messages).where(sent_messages.c.id == message_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _message(row)

    def trim(self, days: float) -> int:
        """See the port."""
        with self._database.write() as connection:
            before = self._database.now(connection) - timedelta(days=days)
            old = sa.select(sent_messages.c.id).where(sent_messages.c.at < before).limit(TRIMMED)
            deleted = connection.execute(
                sa.delete(sent_messages).where(sent_messages.c.id.in_(old))
            )
            return deleted.rowcount


def _without_tokens(text: str) -> str:
    return _TOKEN.sub(r"/\1/…", text[:MAX_CHARS])


def _message(row: AnyRow) -> SentMessage:
    columns = dict(row._mapping)
    content = Rendered(*(columns.pop(name) for name in ("subject", "text", "html")))
    return SentMessage(content=content, **columns)
