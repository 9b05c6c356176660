"""The snippets of docs/outbox.md run as they stand."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from delivery.outbox.schema import statements

PAGE = (Path(__file__).parents[3] / "docs/outbox.md").read_text(encoding="utf-8")
DJANGO = """
import sys, types
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["delivery.outbox.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}},
)
django.setup()
from django.core.management import call_command
from django.db import models
call_command("migrate", verbosity=0)
class Order(models.Model):
    number = models.IntegerField(primary_key=True)
    class Meta:
        app_label, db_table, managed = "shop", "orders", False
sys.modules["shop"] = types.ModuleType("shop")
sys.modules["shop.models"] = types.ModuleType("shop.models")
sys.modules["shop.models"].Order = Order
"""


def block(language: str, holds: str) -> str:
    """The code block of the page that holds a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if holds in text]
    return str(found)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the application's database."""
    database = sqlite3.connect(tmp_path / "shop.db")
    database.execute("CREATE TABLE orders (number INTEGER NOT NULL)")
    database.executescript(";".join(statements("sqlite")))
    database.close()
    return tmp_path


@pytest.mark.parametrize(
    ("holds", "before"),
    [("create_engine", ""), ("transaction.atomic", DJANGO), ("sqlite3.connect", "")],
    ids=["sqlalchemy", "django", "driver"],
)
def test_the_order_and_its_event_are_one_commit(shop: Path, holds: str, before: str):
    ended = subprocess.run(
        [sys.executable, "-c", before + block("python", holds)],
        cwd=shop,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert rows(shop) == [(17, "order_paid", "ada")]


def test_plain_sql_is_the_same(shop: Path):
    database = sqlite3.connect(shop / "shop.db")
    database.executescript("INSERT INTO orders VALUES (17);" + block("sql", "INSERT"))
    database.close()
    assert rows(shop) == [(17, "order_paid", "ada")]


def rows(shop: Path) -> list[tuple[object, ...]]:
    database = sqlite3.connect(shop / "shop.db")
    found = database.execute("SELECT number, type, user_id FROM orders, delivery_outbox").fetchall()
    database.close()
    return found
