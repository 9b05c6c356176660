"""The spool on a disk that is full or broken: what it took stays, what it refused never appears."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from delivery.domain.lifecycle import Confirmation
from delivery.domain.records import Entry
from delivery.errors import LedgerError, LedgerUnavailable, SpoolFull
from delivery.ledger.journal import spool_file
from delivery.ledger.journal.spool import Spool, adopt_orphans
from delivery.ledger.journal.spool_file import look_aside
from delivery.testing import make_entry, make_event

ID = "0190a000-0000-7000-8000-{:012d}"


def entry(number: int, size: int = 0) -> Entry:
    return make_entry(
        make_event(id=ID.format(number), seq=number, data={"text": "x" * size}), ttl=60.0
    )


class Ledger:
    """Takes drained pages; refuses the events that it is told to refuse."""

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.seen: list[int] = []
        self._refused = refused

    def commit(
        self, entries: Sequence[Entry], confirmations: Sequence[Confirmation]
    ) -> list[Entry]:
        bad = [one for one in entries if one.event.seq in self._refused]
        self.seen += [one.event.seq or 0 for one in entries if one not in bad]
        return bad


class Disk:
    """Calls of the operating system; the one with number ``fails_at`` fails, and what is named in
    ``broken`` from then on, too."""

    def __init__(self, fails_at: int, broken: Sequence[str] = ()) -> None:
        self.fails_at = fails_at
        self.broken = broken
        self.calls = 0
        self.has_failed = False

    def use(self, patch: pytest.MonkeyPatch) -> None:
        for name, number in (
            ("pwrite", errno.ENOSPC),
            ("fsync", errno.EIO),
            ("ftruncate", errno.EIO),
        ):
            patch.setattr(spool_file.os, name, self._faulty(name, getattr(os, name), number))

    def _faulty(self, name: str, real: Callable[..., Any], number: int) -> Callable[..., Any]:
        def call(handle: int, *rest: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at or (self.has_failed and name in self.broken):
                self.has_failed = True
                raise OSError(number, os.strerror(number))
            if name == "pwrite" and len(rest[0]) > 200:
                # A short write: half of it, so that the next call can fail in the middle.
                return real(handle, rest[0][: len(rest[0]) // 2], rest[1])
            return real(handle, *rest)

        return call


def append_all(spool: Spool) -> tuple[list[int], list[int]]:
    """Six batches of two; numbers of the entries that were taken, and that were refused."""
    taken: list[int] = []
    refused: list[int] = []
    for first in range(1, 13, 2):
        try:
            spool.append([entry(first), entry(first + 1)])
        except LedgerError:
            refused += [first, first + 1]
        else:
            taken += [first, first + 1]
    return taken, refused


@pytest.mark.parametrize("broken", [(), ("fsync",), ("ftruncate",), ("ftruncate", "fsync")])
@pytest.mark.parametrize("way", ["drained", "adopted"])
def test_a_fault_at_any_call_loses_no_accepted_event_and_records_no_refused_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...], way: str
) -> None:
    for fails_at in range(1, 30):
        directory = tmp_path / f"{fails_at}"
        disk = Disk(fails_at, broken)
        ledger = Ledger()
        if way == "drained":
            spool = Spool(directory, "node")
            with monkeypatch.context() as patch:
                disk.use(patch)
                taken, refused = append_all(spool)
            assert spool.drain(ledger.commit) == len(taken)
            spool.close()
        else:
            taken, refused = killed_after_appending(directory, disk, monkeypatch)
            assert adopt_orphans(directory, ledger.commit) == len(taken)
        assert ledger.seen == taken, f"call {fails_at}, refused: {refused}"
        assert len(taken) + len(refused) == 12
        assert look_aside(directory).lines == 0
        assert not list(directory.iterdir())


def killed_after_appending(
    directory: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], list[int]]:
    """What a process took and refused, that was killed then."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            spool = Spool(directory, "node")
            disk.use(monkeypatch)
            os.write(writer, json.dumps(append_all(spool)).encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    with open(reader, "rb") as told:
        taken, refused = json.loads(told.read())
    os.waitpid(child, 0)
    return taken, refused


def test_after_a_failed_sync_later_events_go_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failure once and forgets the pages: the next sync would lie."""
    spool = Spool(tmp_path, "node")
    spool.append([entry(1)])
    first = spool.path
    with monkeypatch.context() as patch:
        Disk(3).use(patch)  # after two short writes
        with pytest.raises(LedgerUnavailable, match="cannot be written"):
            spool.append([entry(2)])
    spool.append([entry(3)])
    assert spool.path != first
    ledger = Ledger()
    assert spool.drain(ledger.commit) == 2
    assert ledger.seen == [1, 3]
    assert not first.exists()


def test_a_file_that_cannot_be_emptied_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "node")
    spool.append([entry(1)])
    with monkeypatch.context() as patch:
        Disk(1, ("ftruncate",)).use(patch)
        assert spool.drain(Ledger().commit) == 1
    assert spool.pending_bytes == 0
    spool.append([entry(2)])
    ledger = Ledger()
    spool.drain(ledger.commit)
    assert ledger.seen == [2]


def test_what_the_ledger_refuses_is_kept_and_counted_and_can_be_tried_again(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, "node")
    spool.append([entry(number) for number in range(1, 5)])
    spool.drain(Ledger(refused=[2, 3]).commit)
    found = look_aside(tmp_path)
    assert found.lines == 2
    [path] = found.files
    path.rename(path.with_suffix(".spool"))
    mended = Ledger()
    assert spool.adopt(mended.commit) == 2
    assert mended.seen == [2, 3]
    assert look_aside(tmp_path).lines == 0


def test_an_event_that_can_neither_be_recorded_nor_set_aside_stays_in_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "node")
    spool.append([entry(1), entry(2)])
    with monkeypatch.context() as patch:
        Disk(1).use(patch)
        with pytest.raises(LedgerUnavailable):
            spool.drain(Ledger(refused=[1]).commit)
    assert look_aside(tmp_path).lines == 0
    spool.drain(Ledger(refused=[1]).commit)
    assert look_aside(tmp_path).lines == 1


def test_a_line_that_is_no_record_holds_up_no_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "node")
    spool.append([entry(1), entry(2), entry(3)])
    path, lines = spool.path, spool.path.read_bytes().splitlines(keepends=True)
    del spool
    strange = [b'{"kind":"entry"}', b'{"kind":"proof","proof":7}', b"[]", b"\xff", b"[" * 5_000]
    for body in strange:
        lines.insert(1, b"%08x %b\n" % (spool_file.zlib.crc32(body), body))
    path.write_bytes(b"".join(lines))
    ledger = Ledger()
    assert adopt_orphans(tmp_path, ledger.commit) == 3
    assert ledger.seen == [1, 2, 3]
    assert look_aside(tmp_path).lines == len(strange)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips where mounting is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_and_takes_what_fits_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        spool = Spool(disk, "node")
        taken: list[int] = []
        refused: list[int] = []
        for number in range(1, 40):
            size = 9_000 if number % 3 else 100  # small ones fit where a large one did not
            try:
                spool.append([entry(number, size)])
                taken.append(number)
            except SpoolFull:
                refused.append(number)
        assert taken
        assert refused
        ledger = Ledger()
        assert spool.drain(ledger.commit) == len(taken)
        assert ledger.seen == taken
        spool.append([entry(50, 9_000)])
        spool.drain(ledger.commit)
        assert ledger.seen[-1] == 50
        spool.close()


SCRIPT = """
    import resource, sys
    sys.path.insert(0, sys.argv[2])
    from pathlib import Path
    from delivery.errors import SpoolFull
    from delivery.ledger.journal.spool import Spool
    from tests.unit.ledger.journal.test_spool_disk import entry
    spool = Spool(Path(sys.argv[1]), "limited")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    for number in range(1, 30):
        try:
            spool.append([entry(number, 4_500 if number % 2 else 50)])
            print(number)
        except SpoolFull:
            pass
    import os, signal
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_limit_on_files_is_a_full_disk_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path / "spool", root],
        check=False,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    taken = [int(line) for line in done.stdout.split()]
    assert 3 < len(taken) < 29
    ledger = Ledger()
    assert adopt_orphans(tmp_path / "spool", ledger.commit) == len(taken)
    assert ledger.seen == taken
