"""The `alembic` command line works beside `delivery migrate`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from delivery.ledger import migrate

ROOT = Path(__file__).resolve().parents[2]


def alembic(*arguments: str, url: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "DELIVERY_DATABASE_URL"}
    if url is not None:
        environment["DELIVERY_DATABASE_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_it_migrates_the_database_of_the_environment(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    done = alembic("upgrade", "head", url=url)
    assert done.returncode == 0, done.stderr
    assert migrate.is_current(url)


@pytest.mark.parametrize("url", ["postgresql://db/name", "sqlite:////tmp/never-made.db"])
def test_it_prints_the_sql_without_a_connection(url: str) -> None:
    printed = alembic("upgrade", "head", "--sql", url=url)
    assert printed.returncode == 0, printed.stderr
    assert "CREATE TABLE events" in printed.stdout


def test_it_says_what_is_missing() -> None:
    refused = alembic("current", url=None)
    assert refused.returncode != 0
    assert "DELIVERY_DATABASE_URL" in refused.stdout + refused.stderr
