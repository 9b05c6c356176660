"""The outbox as a Django app: its migration, and rows in Django's own transactions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

APPLICATION = """
import sys

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["delivery.outbox.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
)
django.setup()

from django.core.management import call_command
from django.db import connection, transaction

import delivery
from delivery.outbox import django as outbox

call_command("migrate", verbosity=0)
call_command("makemigrations", check=True, dry_run=True, verbosity=0)
with transaction.atomic():
    delivery.outbox.add(connection, "note", {"n": 1}, user_id="u1", run_id="r1")
    outbox.add("note", {"n": 2}, user_id="u1", run_id="r1", meta={"m": "100 %"})
try:
    with transaction.atomic():
        outbox.add("note", {"n": 3}, user_id="u1", run_id="r1")
        raise ValueError
except ValueError:
    pass
with connection.cursor() as cursor:
    outbox_rows = cursor.execute("SELECT data, meta FROM delivery_outbox ORDER BY position")
    print(outbox_rows.fetchall())
call_command("migrate", "delivery_outbox", "zero", verbosity=0)
print([name for name in connection.introspection.table_names() if "outbox" in name])
"""


def test_a_row_is_written_in_the_transaction_that_django_has_open(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", APPLICATION, str(tmp_path / "app.db")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        """[('{"n":1}', None), ('{"n":2}', '{"m":"100 %"}')]""",
        "[]",
    ]
