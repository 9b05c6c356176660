"""A worker process that kills itself (SIGKILL) at one moment of its work.

``claimed``: the events are claimed and nothing else is written; ``before_send``: the attempt stands
in the ledger; ``after_send``: the server has said 250, and that is not recorded.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from datetime import timedelta

from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.ledger.sql.database import Database
from delivery.transports.mail.email import EmailTransport
from tests.faults.chain import email_channel, executor_of, opened, policies_of
from tests.ledger_clock import moved

DEADLINE = 45.0


def die() -> None:
    """At once, without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """The real channel, with a last moment."""

    name = "email"

    def __init__(self, real: EmailTransport, moment: str, number: int) -> None:
        self._real = real
        self._moment = moment
        self._number = number
        self._counted = itertools.count(1)

    def unreachable(self, contact: Contact) -> str | None:
        return self._real.unreachable(contact)

    def deliver(self, message: Message, timeout: float) -> Taken:
        is_last = next(self._counted) == self._number  # others are sent at the same time
        if self._moment == "before_send" and is_last:
            die()
        taken = self._real.deliver(message, timeout)
        if self._moment == "after_send" and is_last:
            die()
        return taken


def set_ahead(seconds: float) -> None:
    """The test that started this process has let time pass."""
    for name, told in moved(lambda: timedelta(seconds=seconds)).items():
        setattr(Database, name, told)


def serve(
    url: str,
    port: int,
    on_unknown: str,
    moment: str,
    number: int,
    ahead: float,
    ids: tuple[str, ...],
) -> None:
    """Serve the email step of these events, and die at the ``number``th message.

    Args:
        ahead: seconds by which the ledger's clock is ahead.
    """
    set_ahead(ahead)
    with opened(url) as ledger:
        if moment == "claimed":
            ledger.digests.join = lambda *args, **options: die()  # type: ignore[assignment]
        policies = policies_of({"channel": "email", "on_unknown": on_unknown, "attempts": 3})
        channel = Dying(email_channel(port), moment, number)
        executor = executor_of(ledger, policies, {"email": channel})
        ends = time.monotonic() + DEADLINE
        while time.monotonic() < ends:
            executor.run("email", ids)
            time.sleep(0.02)  # a digest without a window is due the next moment
