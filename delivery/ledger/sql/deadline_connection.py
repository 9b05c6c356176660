"""A PostgreSQL connection that is closed when the server stops answering.

Owns: the deadline of every wait on a connection. A frozen server keeps its sockets open and its
kernel acknowledges each packet, so neither ``statement_timeout`` nor a TCP option ends the wait.
Never does: reconnect.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

RV = TypeVar("RV")
# Seconds between two checks of the deadline while no data arrives.
_INTERVAL = 0.1


class DeadlineConnection(psycopg.Connection[Any]):
    """Closes itself when one answer takes longer than ``answer_timeout`` seconds.

    The error is an ``OperationalError``, as for a broken connection: the server may still execute
    the statement.

    Attributes:
        opened_at: when it began to connect, in monotonic seconds.
        used_at: when it was given back last; ``None`` before that.
    """

    answer_timeout: float | None = None
    opened_at: float = 0.0
    used_at: float | None = None

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
