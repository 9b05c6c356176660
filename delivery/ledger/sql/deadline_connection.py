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


class PatientConnection(psycopg.Connection[Any]):
    """Closes itself when one answer takes longer than ``patience`` seconds.

    The error is an ``OperationalError``, as if the connection had broken: what was asked may still
    be done.
    """

    patience: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """See psycopg: every wait of a connection comes through here."""
        if self.patience is None:
            return super().wait(gen, interval, timeout)
        return super().wait(self._limited(gen, self.patience), min(interval, _INTERVAL), timeout)

    def _limited(self, gen: PQGen[RV], patience: float) -> PQGen[RV]:
        """The same generator, which the waiting loop resumes at least every ``_INTERVAL``."""
        deadline = time.monotonic() + patience
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server did not answer in {patience:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: RV = end.value
            return answer


def limit(engine: sa.Engine, *, idle: float, busy: float | None) -> None:
    """Make an engine's connections patient.

    Args:
        idle: seconds for the pool's question whether a connection still lives, and for opening one.
        busy: seconds for each answer while a connection is in use; ``None`` waits for ever.
    """

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> PatientConnection:
        connection = PatientConnection.connect(*args, **options)
        connection.patience = idle
        # Ids are text here; the driver would parse each into an object, to be made text again.
        connection.adapters.register_loader("uuid", TextLoader)
        return connection

    @event.listens_for(engine, "checkout")
    def _checkout(connection: PatientConnection, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get(_USED_AT, 0.0) > FRESH:
            _ask(engine, connection)
        connection.patience = busy

    @event.listens_for(engine, "checkin")
    def _checkin(connection: PatientConnection | None, record: Any) -> None:
        if connection is not None:
            connection.patience = idle
            record.info[_USED_AT] = time.monotonic()


def _ask(engine: sa.Engine, connection: PatientConnection) -> None:
    """Whether it still lives; if not, the pool is told to open all of them anew."""
    try:
        engine.dialect.do_ping(connection)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise sa.exc.InvalidatePoolError("the connection is gone") from error
