"""What a badge can show about a client: the words of ``client.js``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from delivery.client.link import Transport


@dataclass(frozen=True, slots=True)
class Status:
    """Where a listening client stands.

    Attributes:
        state: ``connecting``: on the way. ``connected``: events flow. ``waiting``: tries again at
            ``retry_at``. ``closed``: for good, by ``close()`` or by the server.
        transport: ``websocket`` or ``sse`` while connected.
        user_id: whose events these are, once the gateway has said so.
        node: the gateway's name.
        recovered: ``False``: something may be missing; read your own state anew.
        code: close code of the last connection.
        reason: why the last connection ended.
        retry_at: aware UTC.
    """

    state: Literal["connecting", "connected", "waiting", "closed"] = "connecting"
    transport: Transport | None = None
    user_id: str | None = None
    node: str | None = None
    recovered: bool | None = None
    code: int | None = None
    reason: str | None = None
    retry_at: datetime | None = None
