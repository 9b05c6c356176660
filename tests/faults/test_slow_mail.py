"""A mail server that takes its time: longer than a task may last, or for one recipient alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from delivery.domain.health import THRESHOLD, BreakerState
from delivery.ledger import SqlLedger
from delivery.tasks import deliveries
from delivery.tasks.digests import FULL_RECHECK
from delivery.tasks.executor import TimeLimits
from tests.faults.chain import HURRIED, Advance, Chain, email_channel, opened, policies_of
from tests.smtp_servers import Behaviour, smtp_server
from tests.waiting import until_blocking

SLOW = "slow.example.org"
LONG = TimeLimits(soft=4.0, hard=6.0, lease=30.0, mail=60.0)
"""A mail may take many times as long as a task."""
EMAIL = {"channel": "email", "attempts": 1, "on_unknown": "skip"}


class SlowServer(Behaviour):
    """Answers for recipients in one domain when it is told to.

    Attributes:
        slow_at: the command that it is slow at.
    """

    slow_at = "DATA"

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        """Answer, now and from now on."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.released.set)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.slow_at == "RCPT" and address.endswith(SLOW):
            await self.released.wait()
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = await super().handle_DATA(server, session, envelope)
        if self.slow_at == "DATA" and envelope.rcpt_tos[0].endswith(SLOW):
            await self.released.wait()
        return answer

    def recipients_of_messages(self) -> list[str]:
        return sorted(envelope.rcpt_tos[0] for envelope in self.messages)


@pytest.fixture
def mails() -> SlowServer:
    return SlowServer()


@pytest.fixture
def port(mails: SlowServer) -> Iterator[int]:
    with smtp_server(mails) as server:
        mails.loop = server.loop
        yield server.port
        mails.release()


@pytest.fixture
def ledger(sqlite_template: Path, tmp_path: Path) -> Iterator[SqlLedger]:
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    with opened(f"sqlite:///{tmp_path / 'ledger.db'}") as made:
        yield made


def handed_over(chain: Chain, *addresses: str) -> list[str]:
    ids = []
    for number, address in enumerate(addresses):
        chain.contact(f"user{number}", email=address)
        ids += chain.hand_over(f"user{number}")
    return ids


def test_a_mail_that_takes_longer_than_a_task_goes_out_once_and_holds_up_no_other(
    ledger: SqlLedger, advance: Advance, mails: SlowServer, port: int
) -> None:
    chain = Chain(
        ledger, policies_of(EMAIL), advance, {"email": email_channel(port)}, LONG, wait=1.0
    )
    slow, *others = handed_over(
        chain, f"a@{SLOW}", *(f"b{number}@example.org" for number in range(5))
    )
    chain.play(others)
    assert [chain.tries(other) for other in others] == [[("email", "delivered")]] * 5
    assert chain.tries(slow) == [("email", "started")]
    for _ in range(3):  # looked at again while it is being sent
        advance(5.0)
        chain.turn()
    mails.release()
    until_blocking(lambda: chain.tries(slow) == [("email", "delivered")])
    chain.play([slow])
    assert mails.recipients_of_messages().count(f"a@{SLOW}") == 1


def test_a_slow_server_of_one_recipient_opens_no_breaker(
    ledger: SqlLedger, advance: Advance, mails: SlowServer, port: int
) -> None:
    mails.slow_at = "RCPT"
    chain = Chain(ledger, policies_of(EMAIL), advance, {"email": email_channel(port)}, HURRIED)
    slow = handed_over(chain, *(f"a{number}@{SLOW}" for number in range(THRESHOLD + 1)))
    chain.play(slow)
    assert {*map(tuple, map(chain.tries, slow))} == {(("email", "failed"),)}
    assert ledger.breakers.get("email").state is BreakerState.CLOSED
    chain.contact("other", email="other@example.org")
    (other,) = chain.hand_over("other")
    chain.play([other])
    assert chain.tries(other) == [("email", "delivered")]


def test_many_slow_mails_to_one_domain_leave_room_for_the_others(
    ledger: SqlLedger, advance: Advance, mails: SlowServer, port: int
) -> None:
    chain = Chain(
        ledger, policies_of(EMAIL), advance, {"email": email_channel(port)}, LONG, wait=1.0
    )
    slow = handed_over(
        chain, *(f"a{number}@{SLOW}" for number in range(deliveries.MAX_PER_PLACE + 3))
    )

    def started() -> int:
        return [chain.tries(one) for one in slow].count([("email", "started")])

    chain.play(slow, until=lambda: started() == deliveries.MAX_PER_PLACE)
    advance(FULL_RECHECK + 1.0)
    chain.turn()
    tried = [chain.tries(one) for one in slow]
    assert tried.count([("email", "started")]) == deliveries.MAX_PER_PLACE
    assert tried.count([]) == 3, "no attempt is used up by waiting for room"
    chain.contact("other", email="other@example.org")
    (other,) = chain.hand_over("other")
    chain.play([other])
    assert chain.tries(other) == [("email", "delivered")]
