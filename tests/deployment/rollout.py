"""Two releases side by side: a build of the next one, and what its rollout must not cost.

Owns: the next build, which is this one with a newer schema that serves this one and newer versions
on the bus; and callers and clients that count what they lose. Never does: start a process.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from delivery.client.client import Client
from delivery.client.link import Status
from delivery.ledger.migrate import head
from tests.deployment.compose import ROOT

REVISION = "next"
_MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision = "{REVISION}"
down_revision = "{{before}}"
branch_labels = depends_on = None


def upgrade():
    op.add_column("events", sa.Column("of_the_next_release", sa.String(8)))


def downgrade():
    op.drop_column("events", "of_the_next_release")
"""
_RAISED = {
    "delivery/bus/envelope.py": ("\nVERSION = 1\n", "\nVERSION = 2\n"),
    # One kind of message that this release cannot read; it must go on without.
    "delivery/domain/node_messages.py": (
        '"""From an operator: close the user\'s connections."""\n',
        '"""From an operator: close the user\'s connections."""\n\n    v: Literal[1, 2] = 2\n',
    ),
}
PACE = 0.05  # seconds between two requests of a caller


def next_build(folder: Path) -> Path:
    """Write the next release's package into a folder, for ``PYTHONPATH``."""
    for name in ("delivery", "migrations", "config"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    made = _MIGRATION.format(before=head())
    (folder / "migrations" / "versions" / f"{REVISION}_release.py").write_text(made)
    for name, (old, new) in _RAISED.items():
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{name} does not hold {old!r} once"
        (folder / name).write_text(text.replace(old, new))
    return folder


class Page:
    """A user's client: what it handled, and how often its connection came and went.

    Attributes:
        handled: how often its handler saw each event.
        states: every state that it was in, in order.
        ends: close code and reason of each connection that ended.
    """

    def __init__(self) -> None:
        self.handled: Counter[str] = Counter()
        self.states: list[str] = []
        self.ends: list[tuple[int | None, str | None]] = []

    def on_status(self, status: Status) -> None:
        """What a badge would show."""
        self.states.append(status.state)
        if status.state == "waiting":
            self.ends.append((status.code, status.reason))

    @property
    def connects(self) -> int:
        """How often it was connected."""
        return self.states.count("connected")

    @property
    def tries(self) -> int:
        """How often it tried to be."""
        return self.states.count("connecting")


@asynccontextmanager
async def paged(url: str, token: str) -> AsyncIterator[Page]:
    """The product's client, connected, until the end of the body."""
    page = Page()

    async def listen() -> None:
        async with Client(url, token, device="page", on_status=page.on_status) as events:
            async for event in events:
                page.handled[event.id] += 1

    listening = asyncio.create_task(listen())
    try:
        yield page
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


class Caller:
    """Posts events to users, one at a time and at a steady pace.

    Attributes:
        accepted: ids of the accepted events, by user.
        refused: what was answered instead.
    """

    def __init__(self, url: str, headers: dict[str, str], users: list[str]) -> None:
        self.accepted: dict[str, list[str]] = {user: [] for user in users}
        self.refused: Counter[str] = Counter()
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=20.0)

    @property
    def count(self) -> int:
        """Events that were accepted."""
        return sum(len(ids) for ids in self.accepted.values())

    async def run(self) -> None:
        """Post until cancelled, which takes no request with it."""
        try:
            while True:
                for user in self.accepted:
                    await asyncio.shield(self._post(user))
                    await asyncio.sleep(PACE)
        finally:
            await self._http.aclose()

    async def _post(self, user: str) -> None:
        event: dict[str, Any] = {"type": "patient", "user_id": user, "run_id": "r"}
        try:
            answer = await self._http.post("/v1/events", json=event | {"data": {}})
        except httpx.TransportError as error:
            self.refused[repr(error)] += 1
            return
        if answer.status_code == 202:
            self.accepted[user].append(answer.json()["accepted"][0]["id"])
        else:
            self.refused[f"{answer.status_code} {answer.text[:200]}"] += 1
