"""The application's database as the relay sees it: rows that wait, rows that are done.

Owns: the connection, and every statement of the relay. Several relays on one source do no harm:
each carries the rows in their order, and the gateway takes an id once. Never does: post.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, make_url
from uuid_utils import uuid7

from delivery.errors import ConfigError, Unreachable, needs_extra
from delivery.outbox.row import COLUMNS
from delivery.outbox.schema import CHANNEL, VERSION, create, kind_of
from delivery.outbox.tables import dead, outbox, versions

if TYPE_CHECKING:
    import psycopg
    from psycopg import Error as PostgresError
else:
    try:
        from psycopg import Error as PostgresError
    except ImportError:  # the extra `postgres` is not installed

        class PostgresError(Exception):
            """Never raised: no source is a PostgreSQL."""


logger = logging.getLogger(__name__)

TIMEOUT = 10
"""Seconds for one statement, and for a connection."""
MAX_COUNTED = 100_000
"""Rows that a figure counts at most; a scrape must not read a large table."""
LISTEN_AGAIN = 60.0
"""Seconds until it is tried again to listen."""
PROBE_TIMEOUT = 3.0
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "sqlite": "sqlite",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_CLOCKS = {
    "postgresql": "clock_timestamp()",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    "mysql": "CURRENT_TIMESTAMP(6)",
}
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Instants that Python can read; PostgreSQL has others, like infinity."""
_COPIED = [column.name for column in dead.columns if column.name not in ("reason", "dead_at")]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """How the outbox stands.

    Attributes:
        waiting: rows that no gateway has taken, counted up to ``MAX_COUNTED``.
        lag: age of the oldest of them in seconds, 0 for none.
        dead: rows that were set aside, counted up to the same.
    """

    waiting: int
    lag: float
    dead: int


def source_url(text: str) -> URL:
    """The database's URL with the driver that the relay uses; an application's own asynchronous
    driver may stand in it.

    Raises:
        ConfigError: not a URL of PostgreSQL, SQLite, MySQL or MariaDB.
    """
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(
            "the outbox's source is not a database URL; write e.g. "
            "postgresql://user:password@host/name, mysql://… or sqlite:////path/to/file.db"
        ) from None
    backend = "postgresql" if backend == "postgres" else backend
    kind_of(backend)
    if backend == "sqlite" and (not url.database or url.database == ":memory:"):
        raise ConfigError("the outbox's source: SQLite needs a file")
    return url.set(drivername=_DRIVERS[backend])


class Source:
    """One database with an outbox.

    Args:
        url: see ``source_url``.
        keep: seconds for which rows that were carried over are kept.

    Raises:
        ConfigError: the URL is wrong, or its driver is not installed.
    """

    def __init__(self, url: str, *, keep: float = 86_400.0) -> None:
        self.url = source_url(url)
        self.kind = kind_of(self.url.get_backend_name())
        self._keep = timedelta(seconds=keep)
        self._now: sa.ColumnElement[datetime] = sa.literal_column(_CLOCKS[self.kind])
        try:
            self._engine = sa.create_engine(
                self.url,
                hide_parameters=True,
                pool_size=2,
                pool_pre_ping=True,
                pool_timeout=TIMEOUT,
                pool_recycle=300,
                connect_args=self._connect_args(),
            )
        except ModuleNotFoundError as missing:
            extra = "postgres" if self.kind == "postgresql" else "mysql"
            raise needs_extra(f"the outbox's source needs {missing.name}", extra) from missing
        if self.kind == "sqlite":
            sa.event.listen(self._engine, "connect", _read_any_text)
        self._listening: psycopg.Connection[Any] | None = None
        self._listen_at = 0.0

    def _connect_args(self) -> dict[str, Any]:
        if self.kind == "postgresql":
            # Nothing is prepared: the next transaction may have another session of a pooler.
            return {
                "connect_timeout": TIMEOUT,
                "application_name": "delivery-outbox",
                "prepare_threshold": None,
                "tcp_user_timeout": TIMEOUT * 1000,
            }
        if self.kind == "mysql":
            return {
                "connect_timeout": TIMEOUT,
                "read_timeout": TIMEOUT,
                "write_timeout": TIMEOUT,
                "charset": "utf8mb4",
            }
        return {"timeout": TIMEOUT, "check_same_thread": False}

    def close(self) -> None:
        """Close all connections."""
        self._stop_listening()
        self._engine.dispose()

    def create(self) -> None:
        """Make the tables; running it again changes nothing.

        Raises:
            ConfigError: the tables are of a later release.
        """
        with self._transaction() as connection:
            create(connection)
            self._check_version(connection)

    def check(self) -> None:
        """Whether the tables are there.

        Raises:
            ConfigError: they are not, or are of a later release.
        """
        path = self.url.database or ""
        if self.kind == "sqlite" and not Path(path).exists():
            raise ConfigError(f"the outbox's source: there is no file {path}")
        with self._transaction() as connection:
            if not sa.inspect(connection).has_table(outbox.name):
                raise ConfigError(
                    f"the outbox's source has no table {outbox.name}: run `delivery outbox init`"
                )
            self._check_version(connection)

    def _check_version(self, connection: Connection) -> None:
        found = connection.execute(sa.select(sa.func.max(versions.c.version))).scalar()
        if found != VERSION:
            raise ConfigError(
                f"the outbox's tables have version {found}, and this release knows {VERSION}: "
                "run the release that made them, or `delivery outbox init` of this one"
            )

    def waiting(self, limit: int) -> list[Row]:
        """The first rows that no gateway has taken, in their order, each with an id.

        Effect: a row of another program that has none gets its id, and keeps it.
        """
        query = (
            # No instants: another program may have written some that Python cannot read.
            sa.select(outbox.c.position, *(outbox.c[name] for name in COLUMNS))
            .where(outbox.c.sent_at.is_(None))
            .order_by(outbox.c.position)
            .limit(limit)
        )
        with self._transaction() as connection:
            found: list[Row] = [dict(row._mapping) for row in connection.execute(query)]
        if all(row["id"] for row in found):
            return found
        self._name([row["position"] for row in found if not row["id"]])
        with self._transaction() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def _name(self, positions: Sequence[int]) -> None:
        """Give these rows ids, and commit them before any is sent: a relay that is killed then
        sends the same id again."""
        with self._transaction() as connection:
            for position in positions:
                connection.execute(
                    sa.update(outbox)
                    .where(
                        outbox.c.position == position,
                        sa.or_(outbox.c.id.is_(None), outbox.c.id == ""),
                    )
                    .values(id=str(uuid7()))
                )

    def settle(self, sent: Sequence[int], refused: Sequence[tuple[int, str]]) -> None:
        """Mark rows as carried over, and set others aside with the reason."""
        with self._transaction() as connection:
            if sent:
                one = outbox.c.position.in_(sent)
                if self._keep:
                    connection.execute(sa.update(outbox).where(one).values(sent_at=self._now))
                else:
                    connection.execute(sa.delete(outbox).where(one))
            for position, reason in refused:
                self._set_aside(connection, position, reason)

    def _set_aside(self, connection: Connection, position: int, reason: str) -> None:
        here = outbox.c.position == position
        locked = sa.select(outbox.c.position).where(here).with_for_update()
        if connection.execute(locked).one_or_none() is None:
            return  # another relay did
        # Copied by the database: the row may hold what Python cannot read.
        columns = [*(outbox.c[name] for name in _COPIED), sa.literal(reason)]
        copy = sa.select(*columns).where(here)
        connection.execute(sa.insert(dead).from_select([*_COPIED, "reason"], copy))
        connection.execute(sa.delete(outbox).where(here))

    def trim(self, limit: int = 1_000) -> int:
        """Delete rows that were carried over long enough ago; returns how many."""
        with self._transaction() as connection:
            before = self._clock(connection) - self._keep
            old = connection.scalars(
                sa.select(outbox.c.position).where(outbox.c.sent_at < before).limit(limit)
            ).all()
            if old:
                connection.execute(sa.delete(outbox).where(outbox.c.position.in_(old)))
            return len(old)

    def _clock(self, connection: Connection) -> datetime:
        now: datetime = connection.execute(
            sa.select(sa.type_coerce(self._now, sa.DateTime(timezone=True)))
        ).scalar_one()
        return now

    def figures(self) -> Figures:
        """How the outbox stands now."""
        is_waiting = outbox.c.sent_at.is_(None)
        # The position leads the index of rows that wait; by age they would have to be read all.
        oldest = (
            sa.select(self._readable(outbox.c.created_at))
            .where(is_waiting)
            .order_by(outbox.c.position)
            .limit(1)
        )
        with self._transaction() as connection:
            now = _instant(self._clock(connection))
            since = _instant(connection.execute(oldest).scalar())
            some = sa.select(sa.literal(1).label("one")).where(is_waiting).limit(MAX_COUNTED)
            aside = sa.select(sa.literal(1).label("one")).select_from(dead).limit(MAX_COUNTED)
            return Figures(
                waiting=_count(connection, some),
                lag=0.0
                if since is None or now is None
                else max(0.0, (now - since).total_seconds()),
                dead=_count(connection, aside),
            )

    def dead(self, limit: int = 50) -> list[Row]:
        """Rows that were set aside, newest first."""
        columns = [
            self._readable(column).label(column.name) if column is dead.c.created_at else column
            for column in dead.columns
        ]
        query = sa.select(*columns).order_by(dead.c.position.desc()).limit(limit)
        with self._transaction() as connection:
            return [
                {name: _shown(value) for name, value in row._mapping.items()}
                for row in connection.execute(query)
            ]

    def _readable(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        """An instant that another program may have written, for ``_instant``."""
        if self.kind == "sqlite":  # where it may be anything
            return sa.type_coerce(column, sa.types.NullType())
        return sa.case((column.between(_FIRST, _LAST), column))

    def requeue(self, positions: Sequence[int] = ()) -> int:
        """Let rows that were set aside wait again, behind all others; returns how many.

        Args:
            positions: which; all when empty.
        """
        query = sa.select(dead.c.position).order_by(dead.c.position)
        if positions:
            query = query.where(dead.c.position.in_(positions))
        copied = [name for name in _COPIED if name != "position"]
        with self._transaction() as connection:
            found = connection.execute(query.with_for_update()).all()
            for row in found:
                here = dead.c.position == row.position
                copy = sa.select(*(dead.c[name] for name in copied)).where(here)
                connection.execute(sa.insert(outbox).from_select(copied, copy))
                connection.execute(sa.delete(dead).where(here))
            return len(found)

    @property
    def is_listening(self) -> bool:
        """Whether commits wake ``wait``."""
        return self._listening is not None

    def listen(self) -> bool:
        """Have commits wake ``wait``, if the database can; returns whether it does.

        A pooler in transaction mode takes LISTEN and passes no notification on, so one is sent.
        """
        if self.kind != "postgresql" or self._listening is not None:
            return self.is_listening
        if time.monotonic() < self._listen_at:
            return False
        self._listen_at = time.monotonic() + LISTEN_AGAIN
        with self._translated():
            found = self._open_listener()
            try:
                if self._hears(found):
                    self._listening = found
                    return True
            finally:
                if self._listening is None:
                    found.close()
        logger.warning(
            "notifications do not reach the outbox's relay, so it looks for rows again and again: "
            "LISTEN needs a direct connection, and there may be a pooler"
        )
        return False

    def _open_listener(self) -> psycopg.Connection[Any]:
        # By way of the engine, so that the URL means the same.
        raw = self._engine.raw_connection()
        driver: psycopg.Connection[Any] | None = raw.driver_connection
        raw.detach()
        if driver is None:
            raise Unreachable("the connection to the outbox's source was lost")
        driver.autocommit = True
        return driver

    def _hears(self, listener: psycopg.Connection[Any]) -> bool:
        probe = f"probe {uuid.uuid4()}"
        listener.execute(f"LISTEN {CHANNEL}".encode())
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, probe)))
        ends = time.monotonic() + PROBE_TIMEOUT
        while (left := ends - time.monotonic()) > 0:
            for one in listener.notifies(timeout=left, stop_after=1):
                if one.payload == probe:
                    return True
        return False

    def wait(self, timeout: float) -> bool:
        """Wait for an announced commit, for at most ``timeout`` seconds; returns whether one was.

        Raises:
            Unreachable: the connection that listens is lost.
        """
        if self._listening is None:
            return False
        try:
            with self._translated():
                return any(self._listening.notifies(timeout=timeout, stop_after=1))
        except Unreachable:
            self._stop_listening()
            self._listen_at = 0.0
            raise

    def _stop_listening(self) -> None:
        connection, self._listening = self._listening, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            if self.kind == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {TIMEOUT * 1000}")
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, PostgresError) as error:
            reason = getattr(error, "orig", None) or error
            text = str(reason).partition("\n")[0] or type(reason).__name__
            raise Unreachable(f"the outbox's source does not serve: {text[:200]}") from error


def _count(connection: Connection, some: sa.Select[Any]) -> int:
    counted = sa.select(sa.func.count()).select_from(some.subquery())
    found: int = connection.execute(counted).scalar_one()
    return found


def _read_any_text(connection: Any, _: object) -> None:
    """Let SQLite's texts be read whatever their bytes; a row with others than UTF-8 is refused."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")


def _instant(value: object) -> datetime | None:
    """An instant as a database gives it, with its zone; ``None`` for what is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _shown(value: Any) -> Any:
    """A value that can be printed: bytes of no text are escaped."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
