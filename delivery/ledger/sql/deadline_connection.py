"""A PostgreSQL connection that gives up on a server that has stopped answering.

Owns: the client's side of every wait on a connection. A frozen server keeps its sockets open and
its kernel acknowledges what arrives, so neither its own ``statement_timeout`` nor any option of TCP
ends a wait; this does. Never does: reconnect.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.types.string import TextLoader
from sqlalchemy import event

RV = TypeVar("RV")
FRESH = 1.0
"""Seconds after its last use for which a connection is not asked whether it still lives: a busy
process would spend a round trip per transaction on it, to be told once in a year."""
_USED_AT = "delivery_used_at"
# Seconds between two looks at the clock while nothing arrives.
_INTERVAL = 0.1


class DeadlineConnection(psycopg.Connection[Any]):
    """Closes itself when one answer takes longer than ``answer_timeout`` seconds.

    The error is an ``OperationalError``, as if the connection had broken: what was asked may still
    be done.
    """

    answer_timeout: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """See psycopg: every wait of a connection comes through here."""
        if self.answer_timeout is None:
            return super().wait(gen, interval, timeout)
        limited = self._limited(gen, self.answer_timeout)
        return super().wait(limited, min(interval, _INTERVAL), timeout)

    def _limited(self, gen: PQGen[RV], seconds: float) -> PQGen[RV]:
        """The same generator, which the waiting loop resumes at least every ``_INTERVAL``."""
        deadline = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server did not answer in {seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: RV = end.value
            return answer


def limit(engine: sa.Engine, *, idle: float, busy: float | None) -> None:
    """Bound every wait of an engine's connections.

    Args:
        idle: seconds for the pool's question whether a connection still lives, and for opening one.
        busy: seconds for each answer while a connection is in use; ``None`` waits for ever.
    """

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> DeadlineConnection:
        connection = DeadlineConnection.connect(*args, **options)
        connection.answer_timeout = idle
        # Ids are text here; the driver would parse each into an object, to be made text again.
        connection.adapters.register_loader("uuid", TextLoader)
        return connection

    @event.listens_for(engine, "checkout")
    def _checkout(connection: DeadlineConnection, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(_USED_AT, 0.0) > FRESH:
            _ask(engine, connection)
        connection.answer_timeout = busy

    @event.listens_for(engine, "checkin")
    def _checkin(connection: DeadlineConnection | None, record: Any) -> None:
        if connection is not None:
            connection.answer_timeout = idle
            record.info[_USED_AT] = time.monotonic()


def _ask(engine: sa.Engine, connection: DeadlineConnection) -> None:
    """Whether it still lives; if not, the pool is told to open all of them anew."""
    try:
        engine.dialect.do_ping(connection)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise sa.exc.InvalidatePoolError("the connection is gone") from error
