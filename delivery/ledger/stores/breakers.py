"""Breakers of external channels and rates of their providers, shared by all workers.

Owns: the shared state in two small tables, and a cache of breakers for one second. Never does:
decide about a breaker; ``domain.health.Breaker`` has the rules.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.health import Breaker, BreakerState
from delivery.errors import LedgerUnavailable
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import insert
from delivery.ledger.sql.tables import breakers, provider_rates

logger = logging.getLogger(__name__)

MEMORY = 1.0
"""Seconds for which an answer is cached."""
_TOLERANCE = 0.001
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BreakerSql:
    """``BreakerStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers: dict[str, tuple[bool, float]] = {}
        self._remembering = threading.Lock()

    def get(self, name: str) -> Breaker:
        """The breaker's present state; closed if it has no row."""
        with self._database.read() as connection:
            return _breaker(_row(connection, name))

    def allows(self, name: str, *, probe: bool = True) -> bool:
        """Whether a call may pass now. Turns an open breaker half open for one caller's probe.

        Args:
            probe: ``False`` for a call that is not fit to be the probe.
        """
        with self._remembering:
            answer, until = self._answers.get(name, (False, 0.0))
        if time.monotonic() < until:
            return answer
        try:
            answer, lasting = self._ask(name, probe)
        except LedgerUnavailable as error:
            # Without the ledger, channels must stay usable: they are what is left.
            logger.warning("breaker %s cannot be read, so calls pass: %s", name, error)
            answer, lasting = True, True
        if probe or lasting:
            # The refusal of a call that may not probe must not be cached for one that may.
            self._remember(name, lasting)
        return answer

    def report(self, name: str, ok: bool) -> Breaker:
        """Count the outcome of a call; returns the breaker after it."""
        if ok and (known := self.get(name)).state is BreakerState.CLOSED and known.failures == 0:
            return known  # the most frequent case writes nothing
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                insert(connection, breakers)
                .values(name=name, state=BreakerState.CLOSED.value, failures=0, since=now)
                .on_conflict_do_nothing(index_elements=["name"])
            )
            old = _breaker(_row(connection, name, lock=True))
            instant = _seconds(now)
            new = old.on_success(instant) if ok else old.on_failure(instant)
            connection.execute(
                sa.update(breakers).where(breakers.c.name == name).values(_values(new))
            )
        self._remember(name, new.state is BreakerState.CLOSED)
        return new

    def all(self) -> dict[str, Breaker]:
        """Every breaker that has a row, by name."""
        with self._database.read() as connection:
            found = connection.execute(sa.select(breakers).order_by(breakers.c.name)).all()
        return {row.name: _breaker(row) for row in found}

    def _ask(self, name: str, probe: bool) -> tuple[bool, bool]:
        """The answer for this call, and the one to cache for the next calls."""
        with self._database.read() as connection:
            row = _row(connection, name)
            now = self._database.now(connection)
        breaker = _breaker(row)
        if row is None or breaker.state is BreakerState.CLOSED:
            return True, True
        if not probe or not breaker.allows(_seconds(now)):
            return False, False
        probing = breaker.on_attempt(_seconds(now))
        with self._database.write() as connection:
            won = connection.execute(
                sa.update(breakers)
                .where(
                    breakers.c.name == name,
                    breakers.c.state == row.state,
                    breakers.c.since == row.since,
                )
                .values(_values(probing))
            )
            return won.rowcount == 1, False

    def _remember(self, name: str, answer: bool) -> None:
        with self._remembering:
            self._answers[name] = (answer, time.monotonic() + MEMORY)


class ProviderRateSql:
    """``ProviderRateStore`` over SQL: for each provider the instant at which its next message would
    go if all went evenly."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, rate: float) -> float:
        """See the port."""
        pace = 1.0 / rate
        room = max(0.0, 1.0 - pace)  # a second's messages may go at once
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(
                insert(connection, provider_rates)
                .values(name=name, next_at=now)
                .on_conflict_do_nothing(index_elements=["name"])
            )
            mine = provider_rates.c.name == name
            next_at: datetime = connection.execute(
                sa.select(provider_rates.c.next_at).where(mine).with_for_update()
            ).scalar_one()
            ahead = (next_at - now).total_seconds()
            if not 0.0 <= ahead <= room + pace + _TOLERANCE:
                ahead = 0.0  # idle for long; or the rate was lower before, or the clock went back
            if ahead > room + _TOLERANCE:
                return ahead - room
            connection.execute(
                sa.update(provider_rates)
                .where(mine)
                .values(next_at=now + timedelta(seconds=ahead + pace))
            )
        return 0.0


def _row(connection: Connection, name: str, *, lock: bool = False) -> rows.AnyRow | None:
    wanted = sa.select(breakers).where(breakers.c.name == name)
    return connection.execute(wanted.with_for_update() if lock else wanted).one_or_none()


def _breaker(row: rows.AnyRow | None) -> Breaker:
    if row is None:
        return Breaker()
    return Breaker(BreakerState(row.state), row.failures, _seconds(row.since))


def _values(breaker: Breaker) -> dict[str, object]:
    since = datetime.fromtimestamp(breaker.since, UTC)
    return {"state": breaker.state.value, "failures": breaker.failures, "since": since}


def _seconds(instant: datetime) -> float:
    return (instant - _EPOCH).total_seconds()
