"""URLs of databases that a ledger takes, and the errors for others."""

from __future__ import annotations

import pytest

from delivery.errors import ConfigError
from delivery.ledger.sql.database import parse_url


@pytest.mark.parametrize(
    ("given", "driver"),
    [("postgresql://u:p@h/d", "postgresql+psycopg"), ("sqlite:////tmp/x.db", "sqlite")],
)
def test_each_database_gets_its_driver(given: str, driver: str) -> None:
    assert parse_url(given).drivername == driver


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("not a url", "not a database URL"),
        ("sqlite://", "memory is not durable"),
        ("sqlite:///:memory:", "memory is not durable"),
        ("mysql://u:secret@h/d", "use postgresql or sqlite"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_url(given)
    assert "secret" not in str(caught.value)
