"""What a delivery recorded and sent, as tests ask for it.

Owns: waiting, and the words of a failure. Never does: change anything.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email import message_from_string, policy
from email.message import EmailMessage
from html import unescape
from typing import Any, TypeVar

from delivery.client.received import ReceivedEvent
from delivery.client.sync import BlockingRemote
from delivery.domain.channels import Channel
from delivery.domain.transports import SinkMessage
from delivery.transports.sinks import SinkInbox

TIMEOUT = 30.0
"""Seconds that a wait takes at most, unless the test says otherwise: a machine may be busy."""
PAUSE = 0.02
PAGE = 1_000

T = TypeVar("T")
_HREF = re.compile(r"""<a\b[^>]*\bhref=["']([^"']+)["']""", re.IGNORECASE | re.ASCII)


class RecordedEvent(ReceivedEvent):
    """An event as ``GET /v1/events/{id}`` shows it; everything that it says is in ``wire``."""

    __slots__ = ()

    @property
    def state(self) -> str:
        """``accepted``, ``sent``, ``falling_back``, ``confirmed``, ``parked``, ``dead`` or
        ``expired``."""
        return str(self.wire["state"])

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Attempts of its chain, oldest first: ``channel``, ``outcome``, ``error`` and more."""
        return list(self.wire["attempts"])

    @property
    def confirmations(self) -> list[dict[str, Any]]:
        """Confirmations: ``channel``, ``by``, ``evidence``, ``at``."""
        return list(self.wire["confirmations"])


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that was sent.

    Attributes:
        to: its address.
        text: its plain part; ``html`` the other one, empty for none.
        links: what the HTML part links to, in order.
        message: all of it, with its headers.
    """

    to: str
    subject: str
    text: str
    html: str
    links: tuple[str, ...]
    message: EmailMessage


@dataclass(frozen=True, slots=True)
class Text:
    """A text message that was sent."""

    to: str
    body: str


class Recorded:
    """Events of the ledger, and the messages that the local sinks took.

    Waits are blocking: in a coroutine write ``await asyncio.to_thread(recorded.wait, …)``.
    """

    inbox: SinkInbox | None = None

    def __init__(self, remote: BlockingRemote) -> None:
        self._remote = remote

    def events(
        self,
        *,
        user_id: str | None = None,
        run_id: str | None = None,
        type: str | None = None,
        state: str | None = None,
    ) -> list[RecordedEvent]:
        """The newest 1,000 events that match, oldest first."""
        found = self._remote.events.list(
            user_id=user_id, run_id=run_id, type=type, state=state, limit=PAGE
        )
        shown = (self._remote.events.show(one["id"]) for one in reversed(found["events"]))
        return [RecordedEvent(one) for one in shown if one is not None]

    def wait(
        self,
        type: str | None = None,
        *,
        user_id: str | None = None,
        run_id: str | None = None,
        state: str | None = None,
        where: Callable[[RecordedEvent], object] = bool,
        timeout: float = TIMEOUT,
    ) -> RecordedEvent:
        """Wait for an event; the first one that matches.

        Args:
            where: a condition of your own, as ``lambda event: event.data["order"] == 17``.
            timeout: seconds.

        Raises:
            AssertionError: none came; it tells what was recorded.
        """
        wanted = {"type": type, "user_id": user_id, "run_id": run_id, "state": state}
        return _first(
            lambda: self.events(user_id=user_id, run_id=run_id, type=type, state=state),
            where,
            timeout,
            lambda: f"no event with {_described(wanted)}; {self._told()}",
        )

    def wait_confirmed(self, event_id: str, timeout: float = TIMEOUT) -> RecordedEvent:
        """Wait until an event is confirmed. Raises what ``wait`` raises."""
        return self.wait(state="confirmed", where=lambda one: one.id == event_id, timeout=timeout)

    def mails(self, to: str | None = None) -> list[Mail]:
        """Mails that were sent, oldest first."""
        return [_mail(one) for one in self._sent(Channel.EMAIL, to)]

    def wait_mail(
        self,
        to: str | None = None,
        *,
        where: Callable[[Mail], object] = bool,
        timeout: float = TIMEOUT,
    ) -> Mail:
        """Wait for a mail; the first one that matches. Raises what ``wait`` raises."""
        return _first(
            lambda: self.mails(to), where, timeout, lambda: f"no mail to {to}; {self._told()}"
        )

    def texts(self, to: str | None = None) -> list[Text]:
        """Text messages that were sent, oldest first."""
        return [Text(one.to, one.body) for one in self._sent(Channel.SMS, to)]

    def wait_text(
        self,
        to: str | None = None,
        *,
        where: Callable[[Text], object] = bool,
        timeout: float = TIMEOUT,
    ) -> Text:
        """Wait for a text message; the first one that matches. Raises what ``wait`` raises."""
        return _first(
            lambda: self.texts(to), where, timeout, lambda: f"no text to {to}; {self._told()}"
        )

    def _sent(self, kind: Channel, to: str | None) -> list[SinkMessage]:
        kept = [] if self.inbox is None else self.inbox.messages()
        return [one for one in reversed(kept) if one.kind == kind and to in (None, one.to)]

    def _told(self) -> str:
        """What there is, for the words of a failure."""
        events = [f"{one.type} of {one.user_id} ({_way(one)})" for one in self.events()[-20:]]
        sent = [] if self.inbox is None else [f"{m.kind} to {m.to}" for m in self.inbox.messages()]
        return f"recorded: {', '.join(events) or 'nothing'}; sent: {', '.join(sent) or 'nothing'}"


def _way(event: RecordedEvent) -> str:
    tried = [f"{one['channel']} {one['outcome']}" for one in event.attempts]
    return ": ".join([event.state, *([", ".join(tried)] if tried else [])])


def _described(wanted: dict[str, str | None]) -> str:
    given = [f"{name} {value!r}" for name, value in wanted.items() if value is not None]
    return ", ".join(given) or "any type"


def _first(
    look: Callable[[], Sequence[T]],
    where: Callable[[T], object],
    timeout: float,
    failure: Callable[[], str],
) -> T:
    ends = time.monotonic() + timeout
    while True:
        for found in look():
            if where(found):
                return found
        if time.monotonic() >= ends:
            raise AssertionError(f"{failure()} (waited {timeout:g} s)")
        threading.Event().wait(PAUSE)


def _mail(kept: SinkMessage) -> Mail:
    message = message_from_string(kept.body, policy=policy.default)
    html = _part(message, "html")
    links = tuple(unescape(link) for link in _HREF.findall(html))
    return Mail(kept.to, kept.subject, _part(message, "plain"), html, links, message)


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return "" if part is None else str(part.get_content())
