"""What the fault tests share with their neighbours: ledgers on each database, ``delivery up``."""

from tests.acceptance.conftest import start
from tests.conformance.conftest import (
    advance,
    ledger,
    ledger_url,
    postgres_template,
    sqlite_template,
)

__all__ = ["advance", "ledger", "ledger_url", "postgres_template", "sqlite_template", "start"]
