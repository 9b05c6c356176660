"""Sealing of the compliance log, and its head, kept beside the database and at other places.

Owns: the file of the head, what an exported log is read as, and which store lacks the head. Never
does: keep either in the database.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from delivery.domain.audit import Checkpoint
from delivery.domain.stores.ledger import Ledger
from delivery.errors import ConfigError
from delivery.process.data_directory import make_data_dir
from delivery.transports.checkpoints import CheckpointStore, keep_in_all

logger = logging.getLogger(__name__)

HEAD_FILE = "audit-head.json"
MAX_HEAD_BYTES = 1 << 16
"""Files below this are read as a whole, for a document over several lines."""


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """The checkpoints of a file, one JSON document per line; other lines of an export are skipped.

    Raises:
        ConfigError: the file cannot be read, or has none.
    """
    found = [
        msgspec.convert(document, Checkpoint)
        for document in read_documents(path)
        if document.get("type") == "checkpoint"
    ]
    if not found:
        raise ConfigError(f"{path}: no checkpoint in it; `delivery audit head` writes one")
    return found


def read_documents(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a file, one per line or a single one over several lines.

    Raises:
        ConfigError: the file cannot be read, or is no such file.
    """
    try:
        if path.stat().st_size < MAX_HEAD_BYTES:
            yield from _documents(path.read_text(encoding="utf-8"))
            return
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield from _documents(line)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: no JSON documents, one per line") from error


def _documents(text: str) -> Iterator[dict[str, Any]]:
    try:
        whole = [json.loads(text)] if text.strip() else []
    except ValueError:
        whole = [json.loads(line) for line in text.splitlines() if line.strip()]
    for document in whole:
        if not isinstance(document, dict):
            raise ValueError("not an object")
        yield document


class HeadFile:
    """The newest checkpoint, beside the database: a log that was set back as a whole shows here.

    Written by the process that seals. A head that the log does not go on from is kept: only an
    operator may remove the file, after a restored backup.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Checkpoint]:
        """The kept checkpoint; none if there is no file.

        Raises:
            ConfigError: the file is there and holds none.
        """
        return read_checkpoints(self._path) if self._path.is_file() else []

    def keep(self, checkpoint: Checkpoint) -> None:
        """Replace the kept checkpoint, at once or not at all."""
        part = self._path.with_suffix(f".{os.getpid()}.part")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.encode(checkpoint) + b"\n")
        part.replace(self._path)


class Sealer:
    """Seals the log and keeps its head beside the database."""

    def __init__(self, ledger: Ledger, data_dir: Path) -> None:
        self._audit = ledger.audit
        self._data_dir = data_dir
        self._file = HeadFile(data_dir / HEAD_FILE)
        self._fault = ""

    def __call__(self, limit: int) -> int:
        """See ``AuditStore.seal``."""
        count = self._audit.seal(limit)
        if count:
            fault = self._keep_or_fault()
            if fault and fault != self._fault:  # the sealer runs every second
                logger.error("the head of the compliance log is not kept: %s", fault)
            self._fault = fault
        return count

    def _keep_or_fault(self) -> str:
        try:
            make_data_dir(self._data_dir)  # a worker has had no use for it until now
            return self._keep()
        except (ConfigError, OSError) as error:
            return str(error)

    def _keep(self) -> str:
        for known in self._file.read():
            if not self._audit.follows(known):
                return (
                    f"the log does not go on from row {known.number} of {known.at}, which was "
                    "signed: it was set back; run `delivery audit verify`"
                )
        head = self._audit.head()
        if head is not None:
            self._file.keep(head)
        return ""


class CheckpointSender:
    """Sends the log's head to every store that has not got it yet, from this process."""

    def __init__(self, ledger: Ledger, stores: Sequence[CheckpointStore]) -> None:
        self._audit = ledger.audit
        self._stores = stores
        self._kept: dict[str, int] = {}

    def __call__(self) -> None:
        """Send it. What fails is logged and sent again with the next call."""
        head = self._audit.head() if self._stores else None
        if head is None:
            return
        waiting = [one for one in self._stores if self._kept.get(one.name) != head.number]
        failed = keep_in_all(waiting, head)
        for name, reason in failed.items():
            logger.error("checkpoint of row %d was not kept by %s: %s", head.number, name, reason)
        self._kept |= {one.name: head.number for one in waiting if one.name not in failed}
