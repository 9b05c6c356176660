"""``add``: one row, with the caller's own session, cursor or connection, in its transaction.

Owns: what counts as a session, and how each kind writes. Never does: begin, commit or flush.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from delivery.errors import ConfigError
from delivery.outbox.row import COLUMNS, Added, NewRow, new_row

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

TABLE = "delivery_outbox"
_PLACEHOLDERS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


@overload
def add(
    session: AsyncSession | AsyncConnection,
    type: str,
    data: Mapping[str, Any] | None = None,
    *,
    user_id: str,
    run_id: str,
    thread_id: str | None = None,
    id: str | None = None,
    meta: Mapping[str, Any] | None = None,
    **options: Any,
) -> Added: ...
@overload
def add(
    session: Any,
    type: str,
    data: Mapping[str, Any] | None = None,
    *,
    user_id: str,
    run_id: str,
    thread_id: str | None = None,
    id: str | None = None,
    meta: Mapping[str, Any] | None = None,
    **options: Any,
) -> str: ...
def add(
    session: Any,
    type: str,
    data: Mapping[str, Any] | None = None,
    *,
    user_id: str,
    run_id: str,
    thread_id: str | None = None,
    id: str | None = None,
    meta: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Add an event to the caller's transaction; the relay carries it over after the commit.

    Args:
        session: a session or connection of SQLAlchemy, synchronous or not; Django's
            ``connection``; a connection or cursor of a driver (``sqlite3``, ``psycopg``,
            ``pymysql`` …).
        data: an object of at most 64 KiB encoded.
        id: a UUIDv7, the idempotency key; made when left out.
        options: as of ``emit``: ``class_``, ``ttl``, ``group``, ``not_before``, ``traceparent``.

    Returns:
        The event's id; with an asynchronous session or connection it can be awaited.

    Raises:
        InvalidEvent: (or ``InvalidContext``, ``PayloadTooLarge``) names the field; no row was
            written.
        ConfigError: ``session`` is none of those.

    Effect: one row. Adding twice with one ``id`` and the same content is one event.
    """
    row = new_row(
        user_id=user_id,
        run_id=run_id,
        type=type,
        data=data,
        thread_id=thread_id,
        id=id,
        meta=meta,
        options=options,
    )
    return _write(session, row)


def _write(session: Any, row: NewRow) -> str:
    packages = {one.__module__.partition(".")[0] for one in inspect.getmro(type(session))}
    if "sqlalchemy" in packages and not hasattr(session, "driver_connection"):
        from delivery.outbox.tables import write

        return write(session, row)
    if "sqlalchemy" in packages:  # what `engine.raw_connection()` gives
        session = session.driver_connection
    execute = getattr(session, "execute", None)
    if "aiosqlite" in packages:  # whose methods are no coroutine functions
        return Added(row.id, _done(execute, _insert(session), row.values()))
    if inspect.iscoroutinefunction(execute):
        return Added(row.id, execute(_insert(session), row.values()))
    if _is_cursor(session):
        session.execute(_insert(session), row.values())
        return row.id
    if not callable(getattr(session, "cursor", None)):
        raise _refused(session)
    statement = _insert(session)
    cursor = session.cursor()
    if not hasattr(cursor, "execute"):
        raise _refused(session)  # an asynchronous driver, whose cursor has to be awaited
    try:
        cursor.execute(statement, row.values())
    finally:
        cursor.close()
    return row.id


async def _done(call: Any, *arguments: Any) -> None:
    await call(*arguments)


def _is_cursor(session: Any) -> bool:
    return all(hasattr(session, name) for name in ("execute", "executemany", "fetchone"))


def _insert(session: Any) -> str:
    mark = _placeholder(session)
    return f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({', '.join([mark] * len(COLUMNS))})"  # noqa: S608


def _placeholder(session: Any) -> str:
    """How the driver marks a value. Source: PEP 249, ``paramstyle``; Django always takes ``%s``."""
    for one in inspect.getmro(type(session)):
        name = one.__module__
        if name.partition(".")[0] == "django":
            return "%s"
        while name:  # mysql.connector.connection, mysql.connector, mysql
            style = getattr(sys.modules.get(name), "paramstyle", None)
            if isinstance(style, str) and style in _PLACEHOLDERS:
                return _PLACEHOLDERS[style]
            name = name.rpartition(".")[0]
    raise _refused(session)


def _refused(session: Any) -> ConfigError:
    kind = type(session)
    return ConfigError(
        f"outbox.add cannot write with a {kind.__module__}.{kind.__qualname__}: give a session or "
        "connection of SQLAlchemy, Django's connection, or a driver's connection or cursor"
    )
