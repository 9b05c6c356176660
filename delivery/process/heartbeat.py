"""The heartbeat of a process: its row in the ``nodes`` table, shown to operators.

Owns: one thread that writes the row every 5 seconds. Never does: decide anything; no decision reads
the rows.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from delivery.config import Settings
from delivery.domain.stores.ledger import Ledger
from delivery.errors import LedgerError

logger = logging.getLogger(__name__)

EVERY = 5.0


def node_name(settings: Settings, kind: str, index: int | None = None) -> str:
    """Name of this process in the cluster: the one that is set, or host name and process id."""
    if settings.node is None:
        return f"{socket.gethostname()}-{os.getpid()}"
    name = settings.node if kind in ("gateway", "up") else f"{settings.node}-{kind}"
    return name if index is None else f"{name}-{index}"


OWN_CLASSES = "own_classes"
"""In a node's facts: it knows classes of an installation's own, unlike release 0.1.0."""


class Heartbeat:
    """Writes this process's row until it is stopped.

    Args:
        connections: asked each time for the number of open connections.
        info: asked each time for further facts to show.
    """

    def __init__(
        self,
        ledger: Ledger,
        node: str,
        kind: str,
        *,
        connections: Callable[[], int] = lambda: 0,
        info: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._ledger = ledger
        self._node = node
        self._kind = kind
        self._connections = connections
        self._info = info
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery-heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 6.0) -> None:
        """End the thread and delete the row."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        was_up = True
        while True:
            try:
                self._ledger.nodes.beat(
                    self._node,
                    self._kind,
                    self._connections(),
                    {"pid": os.getpid(), OWN_CLASSES: True, **self._info()},
                )
                was_up = True
            except LedgerError as error:
                if was_up:
                    logger.warning("heartbeat of node %s not recorded: %s", self._node, error)
                was_up = False
            if self._stopping.wait(EVERY):
                break
        try:
            self._ledger.nodes.leave(self._node)
        except LedgerError as error:
            logger.debug("row of node %s not deleted, it expires: %s", self._node, error)
