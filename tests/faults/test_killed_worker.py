"""``kill -9`` of a worker around the one moment that no transaction can hold: the external send.

The SMTP server counts. What went out twice, went out after an attempt that is on record as
``unknown``, and because the policy says so.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from email import message_from_bytes

import pytest

from delivery.domain.lifecycle import State
from delivery.ledger import SqlLedger, migrate
from tests.faults.chain import LIMITS, Advance, Chain, email_channel, policies_of
from tests.faults.dying_worker import serve
from tests.smtp_servers import Behaviour, smtp_server

# Children of a process that has imported everything, once: each is there in milliseconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.dying_worker"])


class World:
    """A ledger on PostgreSQL, an SMTP server, and workers that die."""

    def __init__(self, url: str, ledger: SqlLedger, advance: Advance) -> None:
        self.url = url
        self.ledger = ledger
        self.advance = advance
        self.mails = Behaviour()
        self.port = 0
        self.on_unknown = "retry"
        self._ahead = 0.0

    def chain(self) -> Chain:
        step = {"channel": "email", "on_unknown": self.on_unknown, "attempts": 3}
        channels = {"email": email_channel(self.port)}
        chain = Chain(self.ledger, policies_of(step), self.advance, channels)
        for user in ("ada", "bob", "cyd"):
            chain.contact(user, email=f"{user}@example.org")
        return chain

    def killed(self, moment: str, *ids: str, number: int = 1) -> None:
        """A worker that takes these events up and dies; its lease runs out."""
        moments = (self.on_unknown, moment, number, self._ahead)
        worker = FORKS.Process(target=serve, args=(self.url, self.port, *moments, ids))
        worker.start()
        worker.join(55)
        assert worker.exitcode == -signal.SIGKILL
        self.advance(LIMITS.lease + 1.0)
        self._ahead += LIMITS.lease + 1.0

    def taken(self, user: str) -> list[str]:
        """The ``Message-ID`` of every mail that the server took for a user."""
        mine = [m for m in self.mails.messages if m.rcpt_tos == [f"{user}@example.org"]]
        raw = [m.content if isinstance(m.content, bytes) else b"" for m in mine]
        return [str(message_from_bytes(content)["Message-ID"]) for content in raw]


@pytest.fixture
def world(postgres_url: str, advance_databases: Advance) -> Iterator[World]:
    migrate.upgrade(postgres_url)
    ledger = SqlLedger(postgres_url)
    made = World(postgres_url, ledger, advance_databases)
    with smtp_server(made.mails) as server:
        made.port = server.port
        yield made
    ledger.close()


def test_killed_after_the_claim_costs_nothing_but_time(world: World) -> None:
    chain = world.chain()
    (event_id,) = chain.hand_over()
    world.killed("claimed", event_id)
    assert world.mails.messages == []
    chain.play([event_id])
    assert chain.tries(event_id) == [("email", "delivered")]
    assert len(world.taken("ada")) == 1


def test_killed_between_claim_and_send_the_mail_goes_out_once(world: World) -> None:
    chain = world.chain()
    (event_id,) = chain.hand_over()
    world.killed("before_send", event_id)
    assert world.mails.messages == []
    chain.play([event_id])
    assert chain.tries(event_id) == [("email", "unknown"), ("email", "delivered")]
    assert len(world.taken("ada")) == 1


def test_killed_between_send_and_commit_the_policy_decides_on_a_second_copy(world: World) -> None:
    chain = world.chain()
    (event_id,) = chain.hand_over()
    world.killed("after_send", event_id)
    assert len(world.taken("ada")) == 1
    chain.play([event_id])
    first, second = world.taken("ada")
    assert first == second, "a mail program can tell that the copies are one message"
    assert chain.tries(event_id) == [("email", "unknown"), ("email", "delivered")]


def test_killed_between_send_and_commit_nothing_is_repeated_where_the_policy_forbids_it(
    world: World,
) -> None:
    world.on_unknown = "skip"
    chain = world.chain()
    (event_id,) = chain.hand_over()
    world.killed("after_send", event_id)
    chain.play([event_id])
    assert len(world.taken("ada")) == 1
    assert chain.tries(event_id) == [("email", "unknown")]
    assert chain.state(event_id) is State.PARKED


def test_killed_twice_the_second_doubt_ends_it_where_one_repetition_is_allowed(
    world: World,
) -> None:
    world.on_unknown = "once"
    chain = world.chain()
    (event_id,) = chain.hand_over()
    world.killed("after_send", event_id)
    world.killed("after_send", event_id)
    chain.play([event_id])
    assert len(world.taken("ada")) == 2
    assert chain.tries(event_id) == [("email", "unknown")] * 2


def test_killed_during_several_digests_only_messages_under_way_are_in_doubt(world: World) -> None:
    chain = world.chain()
    ids = {user: chain.hand_over(user, count=5) for user in ("ada", "bob", "cyd")}
    every = [event_id for mine in ids.values() for event_id in mine]
    world.killed("after_send", *every, number=2)
    assert world.mails.messages
    chain.play(every)
    doubtful = 0
    for user, mine in ids.items():
        copies = world.taken(user)
        assert len(set(copies)) == 1, "a mail program can tell that the copies are one message"
        [outcomes] = {tuple(outcome for _, outcome in chain.tries(event_id)) for event_id in mine}
        if outcomes == ("delivered",):
            assert len(copies) == 1
        else:
            assert outcomes == ("unknown", "delivered")
            assert len(copies) <= 2
            doubtful += 1
    assert doubtful
