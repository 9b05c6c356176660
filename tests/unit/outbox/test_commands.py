"""``delivery outbox`` and its settings; ``tests/conformance/test_outbox.py`` shows it at work."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from delivery.cli import main
from delivery.errors import ConfigError, PayloadTooLarge
from delivery.outbox.source import source_url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["outbox", *arguments])


def test_the_tables_are_made_and_looked_at(tmp_path: Path):
    source = f"sqlite:///{tmp_path / 'app.db'}"
    missing = run("status", "--source", source)
    assert missing.exit_code == 2
    assert "there is no file" in missing.output
    assert run("init", "--source", source).exit_code == 0
    assert run("--source", source, "init").exit_code == 0
    answer = run("status", "--source", source, "--json")
    assert json.loads(answer.output) == {"waiting": 0, "lag_seconds": 0.0, "dead": 0}
    assert json.loads(run("dead", "--source", source, "--json").output) == {"dead": []}
    assert run("requeue", "--source", source).exit_code == 2
    assert "0 rows" in run("requeue", "--all", "--source", source).output


def test_the_statements_can_be_had_alone(tmp_path: Path):
    database = sqlite3.connect(tmp_path / "app.db")
    database.executescript(run("init", "--sql", "sqlite").output)
    database.execute("INSERT INTO delivery_outbox (user_id, run_id, type) VALUES ('u','r','t')")
    assert database.execute("SELECT data, version FROM delivery_outbox").fetchone() == ("{}", 1)
    database.close()
    assert "pg_notify" in run("init", "--sql", "postgresql").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("init",), "DELIVERY_OUTBOX_SOURCE"),
        (("init", "--source", "oracle://host/name"), "oracle"),
        (("init", "--source", "sqlite://"), "needs a file"),
        (("init", "--source", "nonsense"), "not a database URL"),
        (("run", "--source", "sqlite:///x"), "DELIVERY_TOKEN"),
        (("--source", "sqlite:///x", "--token", "t", "--token-file", "f"), "not both"),
        (("--source", "sqlite:///x", "--token-file", "/none"), "/none"),
        (("--source", "sqlite:////none/x", "--token", "t"), "there is no file"),
        (("--source", "sqlite:///x", "--token", "t", "--url", "ftp://h"), "DELIVERY_URL"),
    ],
)
def test_a_wrong_setting_is_named(arguments: tuple[str, ...], said: str):
    answer = run(*arguments)
    assert (answer.exit_code, said in answer.output) == (2, True), answer.output


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://h/n", "postgresql+psycopg"),
        ("postgresql+asyncpg://h/n", "postgresql+psycopg"),
        ("sqlite+aiosqlite:///f.db", "sqlite"),
        ("mysql+aiomysql://h/n", "mysql+pymysql"),
        ("mariadb://h/n", "mariadb+pymysql"),
    ],
)
def test_an_applications_own_url_can_be_given(given: str, driver: str):
    assert source_url(given).drivername == driver


def test_an_application_that_adds_loads_no_service():
    code = (
        "import sqlite3, sys, delivery;"
        "c = sqlite3.connect(':memory:');"
        "[c.execute(s) for s in delivery.outbox.statements('sqlite')];"
        "delivery.outbox.add(c, 'note', user_id='u', run_id='r');"
        "print([m for m in ('celery', 'aiohttp', 'sqlalchemy', 'psycopg', 'httpx', 'asyncio')"
        " if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_errors_are_the_emitters():
    import delivery

    with pytest.raises(PayloadTooLarge):
        delivery.outbox.add(None, "note", {"x": "y" * 70_000}, user_id="u", run_id="r")
    with pytest.raises(ConfigError, match="NoneType"):
        delivery.outbox.add(None, "note", user_id="u", run_id="r")
