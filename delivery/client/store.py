"""What a client remembers of the events it handled: the cursor, and the latest ids.

The cursor tells the server where to go on; the ids keep an event that is sent again from reaching
the handler again. At least once on the wire, once to the handler, while the store is kept.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

REMEMBERED = 10_000


class Store(Protocol):
    """Kept by one client at a time."""

    @property
    def cursor(self) -> str | None:
        """The id handled last."""

    def __contains__(self, event_id: object, /) -> bool:
        """Whether the id was handled, as far as the store remembers."""

    def remember(self, event_id: str) -> None:
        """The event was handled; called before it is acknowledged."""


class MemoryStore:
    """Forgets everything with the process. Pass the same one to a new client to go on."""

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[str, None] = OrderedDict()

    @property
    def cursor(self) -> str | None:
        """See ``Store``."""
        return next(reversed(self._ids), None)

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def remember(self, event_id: str) -> None:
        """See ``Store``."""
        self._ids[event_id] = None
        self._ids.move_to_end(event_id)
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)


class FileStore:
    """One id per line, appended; survives a killed process, not a lost disk.

    Effect: writes ``path`` and, when it has grown to twice the capacity, replaces it.
    """

    def __init__(self, path: str | os.PathLike[str], capacity: int = REMEMBERED) -> None:
        """
        Raises:
            OSError: the file cannot be read or written.
        """
        self._path = Path(path)
        self._capacity = capacity
        self._memory = MemoryStore(capacity)
        self._lines = 0
        self._load()
        self._file = self._path.open("a", encoding="ascii")

    def _load(self) -> None:
        if not self._path.exists():
            return
        text = self._path.read_text(encoding="ascii", errors="replace")
        if text and not text.endswith("\n"):
            # A line that was cut by a crash is no id, and must not be glued to the next one.
            text = text[: text.rfind("\n") + 1]
            self._path.write_text(text, encoding="ascii")
        for line in text.splitlines():
            self._memory.remember(line)
            self._lines += 1

    @property
    def cursor(self) -> str | None:
        """See ``Store``."""
        return self._memory.cursor

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._memory

    def remember(self, event_id: str) -> None:
        """See ``Store``."""
        self._memory.remember(event_id)
        self._file.write(f"{event_id}\n")
        self._file.flush()
        self._lines += 1
        if self._lines >= 2 * self._capacity:
            self._compact()

    def _compact(self) -> None:
        ids = list(self._memory)
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text("".join(f"{event_id}\n" for event_id in ids), encoding="ascii")
        self._file.close()
        fresh.replace(self._path)
        self._file = self._path.open("a", encoding="ascii")
        self._lines = len(ids)

    def close(self) -> None:
        """Close the file. The client does not: the store is yours."""
        self._file.close()
