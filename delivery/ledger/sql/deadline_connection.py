"""A PostgreSQL connection that is closed when the server stops answering.

Owns: the deadline of every wait on a connection. A frozen server keeps its sockets open and its
kernel acknowledges each packet, so neither ``statement_timeout`` nor a TCP option ends the wait.
Never does: reconnect.
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
"""Seconds after its last use for which a connection is not pinged: in a busy process that would
cost a round trip per transaction."""
_USED_AT = "delivery_used_at"
# Seconds between two checks of the deadline while no data arrives.
_INTERVAL = 0.1


class DeadlineConnection(psycopg.Connection[Any]):
    """Closes itself when one answer takes longer than ``answer_timeout`` seconds.

    The error is an ``OperationalError``, as for a broken connection: the server may still execute
    the statement.
    """

    answer_timeout: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """Override psycopg's method, through which every wait of a connection passes."""
        if self.answer_timeout is None:
            return super().wait(gen, interval, timeout)
        limited = self._limited(gen, self.answer_timeout)
        return super().wait(limited, min(interval, _INTERVAL), timeout)

    def _limited(self, gen: PQGen[RV], seconds: float) -> PQGen[RV]:
        """The generator with a deadline; psycopg resumes it at least every ``_INTERVAL``."""
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
        idle: seconds for opening a connection, and for the pool's ping.
        busy: seconds for each answer while a connection is in use; ``None`` sets no limit.
    """

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> DeadlineConnection:
        connection = DeadlineConnection.connect(*args, **options)
        connection.answer_timeout = idle
        # Ids are text in this package; the driver would build an object for each.
        connection.adapters.register_loader("uuid", TextLoader)
        return connection

    @event.listens_for(engine, "checkout")
    def _checkout(connection: DeadlineConnection, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(_USED_AT, 0.0) > FRESH:
            _ping(engine, connection)
        connection.answer_timeout = busy

    @event.listens_for(engine, "checkin")
    def _checkin(connection: DeadlineConnection | None, record: Any) -> None:
        if connection is not None:
            connection.answer_timeout = idle
            record.info[_USED_AT] = time.monotonic()


def _ping(engine: sa.Engine, connection: DeadlineConnection) -> None:
    """Check that the connection works; if not, make the pool replace all of its connections."""
    try:
        engine.dialect.do_ping(connection)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise sa.exc.InvalidatePoolError("the connection is gone") from error
