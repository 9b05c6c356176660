"""PostgreSQL's driver, which the extra ``postgres`` brings: its errors, and what to install.

Owns: names for its errors that can be caught where it is not installed. Never does: connect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from delivery.errors import needs_extra

if TYPE_CHECKING:
    from psycopg import DataError, Error, InterfaceError, InternalError, OperationalError
    from psycopg.errors import UniqueViolation
else:
    try:
        from psycopg import DataError, Error, InterfaceError, InternalError, OperationalError
        from psycopg.errors import UniqueViolation
    except ImportError:

        class Error(Exception):
            """Never raised: without the driver there is only SQLite."""

            sqlstate = None
            pgconn = None

        DataError = InterfaceError = InternalError = OperationalError = UniqueViolation = Error

__all__ = [
    "DataError",
    "Error",
    "InterfaceError",
    "InternalError",
    "OperationalError",
    "UniqueViolation",
    "require",
]


def require() -> None:
    """Check that the driver is there.

    Raises:
        ConfigError: it is not; names the command that installs it.
    """
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise needs_extra("PostgreSQL needs psycopg", "postgres") from error
