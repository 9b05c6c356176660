"""A step's providers in turn: which one sends, and when no second one may."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from delivery.errors import ChannelRejected, ChannelUnavailable, OutcomeUnknown
from delivery.tasks.providers import Provider, budget_of
from tests.unit.tasks.fakes import FakeChannel, World, make_event, policies_of, step_on

AWAY = ChannelUnavailable("451 try later", retry_after=90.0)


class Two(World):
    """A chain whose mail step names two providers, beside the one of the settings."""

    def __init__(self, rates: tuple[float, float] = (0.0, 0.0), **step: Any) -> None:
        self.ses, self.postmark = FakeChannel("email"), FakeChannel("email")
        named = {
            "ses": Provider(self.ses, "ses", 30.0, rates[0]),
            "postmark": Provider(self.postmark, "postmark", 20.0, rates[1]),
        }
        mail = step_on("email", providers=tuple(named), **step)
        super().__init__(policies_of(mail), named=named)

    def sent(self) -> tuple[int, int, int]:
        """Messages that ses, postmark and the provider of the settings were given."""
        own = self.channels["email"].messages
        return len(self.ses.messages), len(self.postmark.messages), len(own)

    def made(self, event_id: str) -> list[tuple[str | None, str]]:
        return [(a.provider, a.outcome.value) for a in self.ledger.look(event_id).attempts]


def test_the_next_provider_takes_the_message_at_once_in_the_same_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Two()
    world.ses.faults = [AWAY]
    event_id = world.ledger.add()
    with caplog.at_level(logging.WARNING):
        world.run("email", event_id)
    assert world.sent() == (1, 1, 0)
    assert world.made(event_id) == [("postmark", "delivered")]
    assert world.ses.messages[0].key == world.postmark.messages[0].key
    assert "goes to provider postmark after ses failed" in caplog.text
    assert "451" not in caplog.text, "a provider's words may quote an address"


def test_a_refusal_for_good_goes_to_no_other_provider() -> None:
    world = Two()
    world.ses.faults = [ChannelRejected("550 5.1.1 no such user")]
    event_id = world.ledger.add()
    world.play(event_id)
    assert world.sent() == (1, 0, 0)
    assert world.made(event_id) == [("ses", "failed")]


@pytest.mark.parametrize(("on_unknown", "sent"), [("skip", (1, 0, 0)), ("once", (2, 0, 0))])
def test_a_message_that_may_have_gone_out_goes_to_no_other_provider_in_that_attempt(
    on_unknown: str, sent: tuple[int, int, int]
) -> None:
    world = Two(on_unknown=on_unknown)
    world.ses.faults = [OutcomeUnknown("no answer")]
    event_id = world.ledger.add()
    world.play(event_id)
    assert world.sent() == sent
    assert world.made(event_id)[0] == ("ses", "unknown")


def test_an_outcome_that_is_unknown_at_the_second_provider_ends_the_attempt_too() -> None:
    world = Two(on_unknown="skip")
    world.ses.faults, world.postmark.faults = [AWAY], [OutcomeUnknown("no answer")]
    event_id = world.ledger.add()
    world.play(event_id)
    assert world.sent() == (1, 1, 0)
    assert world.made(event_id) == [("postmark", "unknown")]
    assert world.ledger.error(event_id) == "ses: 451 try later; postmark: no answer"


def test_an_attempt_fails_when_all_have_and_the_first_is_asked_again_when_one_may_be() -> None:
    world = Two()
    world.ses.faults, world.postmark.faults = [AWAY], [ChannelUnavailable("421")]
    event_id = world.ledger.add()
    world.run("email", event_id)
    assert world.ledger.error(event_id) == "ses: 451 try later; postmark: 421"
    assert world.ledger.due_in(event_id) == 10.0, "postmark named no time, so the backoff holds"
    world.play(event_id)
    assert world.made(event_id) == [("postmark", "failed"), ("ses", "delivered")]


def test_an_open_breaker_sends_to_the_next_provider_and_each_has_its_own() -> None:
    world = Two()
    world.ledger.break_open("email/ses")
    event_id = world.ledger.add()
    world.play(event_id)
    assert world.sent() == (0, 1, 0)
    assert world.ledger.breakers.get("email").failures == 0


def test_events_wait_while_every_provider_has_an_open_breaker() -> None:
    world = Two()
    for name in ("email/ses", "email/postmark"):
        world.ledger.break_open(name)
    event_id = world.ledger.add()
    world.run("email", event_id)
    assert world.sent() == (0, 0, 0)
    assert world.ledger.due_in(event_id) == 30.0
    assert world.ledger.tries(event_id) == []


def test_a_rate_that_is_used_up_sends_to_the_next_and_then_moves_the_due_time() -> None:
    world = Two(rates=(1.0, 1.0))
    ids = [world.ledger.add(make_event(f"u{number}")) for number in range(3)]
    for event_id in ids:
        world.run("email", event_id)
    assert world.sent() == (1, 1, 0)
    assert world.ledger.tries(ids[2]) == [], "an event that waits has used up no attempt"
    due_in = world.ledger.due_in(ids[2])
    assert due_in is not None
    assert 0.5 <= due_in <= 2.0
    world.play(ids[2])
    assert world.made(ids[2]) == [("ses", "delivered")]


def test_a_step_without_providers_keeps_the_provider_of_the_settings() -> None:
    world = Two()
    other = World(policies_of(step_on("email")), named={"ses": Provider(world.ses, "ses")})
    event_id = other.ledger.add()
    other.play(event_id)
    assert len(other.channels["email"].messages) == 1
    assert other.ledger.look(event_id).attempts[0].provider is None


def test_an_attempt_has_no_more_time_than_any() -> None:
    world = Two()
    providers = [Provider(world.ses, "ses", 50.0), Provider(world.postmark, "postmark", 20.0)]
    assert budget_of(providers, 10.0, 60.0) == 60.0
    assert budget_of(providers[1:], 10.0, 60.0) == 20.0
    assert budget_of([Provider(world.ses)], 10.0, 60.0) == 10.0
