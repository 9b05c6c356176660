"""The outbox's tables, by the statements that ``delivery outbox init`` runs."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

from delivery.outbox.schema import drop_statements, kind_of, statements


def make(_apps: Any, editor: Any) -> None:
    """Make the tables."""
    for statement in statements(editor.connection.vendor):
        editor.execute(statement, params=None)  # without parameters, % stands for itself


def remove(_apps: Any, editor: Any) -> None:
    """Remove the tables, rows that wait included."""
    for statement in drop_statements(kind_of(editor.connection.vendor)):
        editor.execute(statement, params=None)


class Migration(migrations.Migration):  # type: ignore[misc]  # Django has no types
    """Version 1 of the tables."""

    initial = True
    dependencies: ClassVar[list[Any]] = []
    operations: ClassVar[list[Any]] = [migrations.RunPython(make, remove)]
