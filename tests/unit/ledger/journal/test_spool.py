"""The spool: durable, ordered, bounded, adopted when its process has ended."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, Outcome
from delivery.domain.options import Options
from delivery.domain.records import Entry
from delivery.errors import LedgerUnavailable, SpoolFull
from delivery.ledger.journal.spool import Spool, adopt_orphans
from delivery.testing import START, make_entry, make_event

ID = "0190a000-0000-7000-8000-{:012d}"


def entry(number: int, **changes: object) -> Entry:
    event = make_event(
        id=ID.format(number),
        type="agent_started",
        user_id="ada",
        run_id="run",
        seq=number,
        event_class=EventClass.CRITICAL,
        data={"n": number},
    )
    return make_entry(event, ttl=60.0, **changes)


def confirmation(number: int) -> Confirmation:
    return Confirmation(ID.format(number), "ada", "websocket", "ada", "c1")


class Ledger:
    """Takes drained pages, or refuses them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.pages = 0
        self.entries: list[Entry] = []
        self.is_away = False

    def commit(self, entries: Sequence[Entry], confirmations: Sequence[Confirmation]) -> None:
        if self.is_away:
            raise LedgerUnavailable("away")
        self.pages += 1
        self.entries.extend(entries)
        self.seen.extend(f"entry {e.event.data['n']}" for e in entries)
        self.seen.extend(f"confirmation {int(p.event_id[-12:])}" for p in confirmations)


def test_appended_entries_are_drained_in_order_and_unchanged(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "node")
    one = entry(1, sent=True, pushes=[(Outcome.DELIVERED, None)], confirmations=[confirmation(1)])
    spool.append([one, entry(2)], [confirmation(2)])
    spool.append([entry(3)])
    ledger = Ledger()
    assert spool.drain(ledger.commit) == 3
    assert ledger.seen == ["entry 1", "entry 2", "entry 3", "confirmation 2"], (
        "confirmations follow their entries"
    )
    assert ledger.pages == 1, "acknowledgements in between cost no transactions"
    assert ledger.entries[0] == one
    assert spool.pending_bytes == 0
    assert spool.drain(ledger.commit) == 0


def test_what_a_caller_chose_survives_the_spool(tmp_path: Path) -> None:
    one = entry(1)
    one.event = one.event.evolve(event_class=EventClass("orders"))
    one.choose(Options(event_class="orders", ttl=0.25, group="g", not_before=START))
    spool, ledger = Spool(tmp_path, "node"), Ledger()
    spool.append([one])
    spool.drain(ledger.commit)
    assert ledger.entries == [one]


def test_nothing_is_lost_when_the_ledger_is_still_away(tmp_path: Path) -> None:
    spool, ledger = Spool(tmp_path, "node"), Ledger()
    spool.append([entry(1)])
    ledger.is_away = True
    with pytest.raises(LedgerUnavailable):
        spool.drain(ledger.commit)
    ledger.is_away = False
    assert spool.drain(ledger.commit) == 1


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool, ledger = Spool(tmp_path, "node", max_bytes=600), Ledger()
    spool.append([entry(1)])
    with pytest.raises(SpoolFull, match="bring the ledger back"):
        spool.append([entry(2), entry(3)])
    spool.drain(ledger.commit)
    assert ledger.seen == ["entry 1"]


def test_a_torn_last_line_is_dropped_and_the_rest_is_drained(tmp_path: Path) -> None:
    spool, ledger = Spool(tmp_path, "node"), Ledger()
    spool.append([entry(1), entry(2)])
    path = spool.path
    raw = path.read_bytes()
    del spool
    path.write_bytes(raw[:-10])
    assert adopt_orphans(tmp_path, ledger.commit) == 1
    assert ledger.seen == ["entry 1"]
    assert not path.exists()


def test_a_damaged_line_is_set_aside_for_an_operator(tmp_path: Path) -> None:
    spool, ledger = Spool(tmp_path, "node"), Ledger()
    spool.append([entry(1), entry(2)])
    path = spool.path
    del spool
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":9'))
    assert adopt_orphans(tmp_path, ledger.commit) == 1
    assert ledger.seen == ["entry 2"]
    assert b'"n":9' in path.with_name(f"{path.stem}-aside.corrupt").read_bytes()


def test_the_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    alive, ledger = Spool(tmp_path, "alive"), Ledger()
    alive.append([entry(1)])
    assert adopt_orphans(tmp_path, ledger.commit) == 0
    assert alive.path.exists()


def test_a_killed_process_loses_nothing_that_it_appended(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2]);"
        "from pathlib import Path; from importlib import util;"
        "spec = util.spec_from_file_location('t', sys.argv[3]); t = util.module_from_spec(spec);"
        "spec.loader.exec_module(t);"
        "t.Spool(Path(sys.argv[1]), 'gone').append([t.entry(1), t.entry(2)]);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, root, __file__], check=False, timeout=30
    )
    assert done.returncode == -9
    own, ledger = Spool(tmp_path, "me"), Ledger()
    assert own.adopt(ledger.commit) == 2
    assert ledger.seen == ["entry 1", "entry 2"]
    assert all(one.hand_over for one in ledger.entries), "its sockets died with it"


def test_closing_removes_an_empty_file_and_leaves_a_full_one_to_be_adopted(
    tmp_path: Path,
) -> None:
    empty, full = Spool(tmp_path, "a"), Spool(tmp_path, "b")
    full.append([entry(1)])
    empty.close()
    full.close()
    assert not empty.path.exists()
    assert adopt_orphans(tmp_path, Ledger().commit) == 1


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LedgerUnavailable, match=str(blocked)):
        Spool(blocked, "node")


def test_the_file_is_locked_against_other_processes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "node")
    handle = os.open(spool.path, os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)
