"""PostgreSQL databases of one test each, made from a template and dropped afterwards."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import psycopg
from sqlalchemy import URL, make_url


@contextlib.contextmanager
def created(server: str, template: str = "template0") -> Iterator[URL]:
    """A new database on ``server``, dropped at the end with its connections."""
    admin = make_url(server)
    name = f"test_{uuid.uuid4().hex}"
    _administer(admin, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield admin.set(drivername="postgresql+psycopg", database=name)
    _administer(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def text(url: URL) -> str:
    """The URL with its password, as a setting takes it."""
    return url.render_as_string(hide_password=False)


def _administer(admin: URL, statement: str) -> None:
    conninfo = text(admin.set(drivername="postgresql"))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement)
