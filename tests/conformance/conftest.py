"""The ledger on each database that it supports, migrated as an operator would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from delivery.ledger import SqlLedger, migrate


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty, migrated database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    migrate.upgrade(url)
    return url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[SqlLedger]:
    """A ledger, closed after the test."""
    opened = SqlLedger(ledger_url)
    yield opened
    opened.close()
