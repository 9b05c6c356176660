"""What the fault tests share with their neighbours: ledgers on each database, ``delivery up``."""

from tests.acceptance.conftest import start
from tests.conformance.conftest import (
    advance,
    advance_databases,
    ledger,
    open_ledger,
    postgres_template,
    sqlite_template,
)

__all__ = [
    "advance",
    "advance_databases",
    "ledger",
    "open_ledger",
    "postgres_template",
    "sqlite_template",
    "start",
]
