"""What the ledger writes to disk is its owner's alone, whatever the directory and the umask are."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from delivery.errors import LedgerUnavailable
from delivery.ledger import SqlLedger, migrate
from delivery.ledger.journal.spool import Spool
from delivery.ledger.sql.database import Database
from delivery.testing import make_entry


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory that is open to others, under a umask that takes no rights."""
    before = os.umask(0)
    tmp_path.chmod(0o755)
    yield tmp_path
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in found}


def test_a_new_database_and_its_journal_files_are_private(folder: Path) -> None:
    url = f"sqlite:///{folder / 'ledger.db'}"
    migrate.upgrade(url)
    ledger = SqlLedger(url)
    ledger.recording.commit([make_entry()])
    assert modes(folder) == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)
    ledger.close()


def test_a_database_of_the_release_before_becomes_private(folder: Path) -> None:
    url = f"sqlite:///{folder / 'ledger.db'}"
    migrate.upgrade(url)
    old = SqlLedger(url)
    old.recording.commit([make_entry()])
    for path in folder.iterdir():
        path.chmod(0o644)
    ledger = SqlLedger(url)
    ledger.ping()
    assert set(modes(folder).values()) == {0o600}
    ledger.close()
    old.close()


def test_spooled_events_are_private(folder: Path) -> None:
    spool = Spool(folder / "spool", "n1")
    spool.append([make_entry()])
    spool.drain(lambda entries, confirmations: entries)  # refused, and set aside
    assert len(modes(folder)) == 2
    assert set(modes(folder).values()) == {0o600}
    assert stat.S_IMODE((folder / "spool").stat().st_mode) == 0o700
    spool.close()


def test_a_process_without_descriptors_has_a_ledger_that_is_away(tmp_path: Path) -> None:
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as database:
        database.ping()
        database.close()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(LedgerUnavailable) as caught:
                database.ping()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.cause == "this process has no descriptors left"
        database.ping()
