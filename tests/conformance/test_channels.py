"""One suite for every last-mile channel, each on a real server: sinks, and HTTP for push."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from delivery.domain.transports import Transport
from delivery.domain.users.contact import Contact
from delivery.errors import ChannelUnavailable
from delivery.transports.mail.email import EmailTransport
from delivery.transports.push import PushTransport
from delivery.transports.rendering.render import Renderer
from delivery.transports.sinks import MailSink, SmsSink
from delivery.transports.sms import SmsTransport
from tests.messages import make_event, make_message
from tests.web_server import Reply, web_server

TIMEOUT = 5.0


@dataclass
class Case:
    """A channel on a server that takes everything."""

    channel: Transport
    contact: dict[str, Any]
    arrived: Callable[[], int]
    away: Callable[[], None]


def email_case(stack: ExitStack) -> Case:
    sink = MailSink()
    sink.start()
    stack.callback(sink.stop)
    channel = EmailTransport(sink.url, "noreply@example.org", Renderer())
    return Case(channel, {}, lambda: len(sink.inbox.messages()), sink.stop)


def sms_case(stack: ExitStack) -> Case:
    sink = SmsSink(token="token-1", account="AC1")
    sink.start()
    stack.callback(sink.stop)
    channel = SmsTransport(sink.url, "AC1", "token-1", "+15005550006", Renderer())
    return Case(channel, {}, lambda: len(sink.inbox.messages()), sink.stop)


def push_case(stack: ExitStack) -> Case:
    server = stack.enter_context(web_server())
    channel = PushTransport(Renderer(), ["json"], allow_private=True)

    def away() -> None:
        server.answer = lambda request: Reply(503)

    contact = {"push": (f"json://127.0.0.1:{server.port}/hook",)}
    return Case(channel, contact, lambda: len(server.requests), away)


@pytest.fixture(params=[email_case, sms_case, push_case], ids=["email", "sms", "emergency"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with ExitStack() as stack:
        yield request.param(stack)


def test_the_channel_has_the_name_of_its_step(case: Case, request: pytest.FixtureRequest) -> None:
    assert case.channel.name in request.node.name


def test_a_message_is_taken_and_arrives_once(case: Case) -> None:
    message = make_message(contact=case.contact, events=[make_event(1), make_event(2)])
    assert case.channel.unreachable(message.contact) is None
    taken = case.channel.deliver(message, TIMEOUT)
    assert case.arrived() == 1
    assert taken.provider_id or taken.note


def test_a_contact_without_an_address_is_unreachable_with_a_reason(case: Case) -> None:
    assert case.channel.unreachable(Contact("ada"))


def test_a_provider_that_is_away_is_a_retryable_failure_within_the_time_limit(
    case: Case,
) -> None:
    case.away()
    begun = time.monotonic()
    with pytest.raises(ChannelUnavailable) as caught:
        case.channel.deliver(make_message(contact=case.contact), 2.0)
    assert caught.value.retryable
    assert time.monotonic() - begun < 4.0


def test_a_message_over_several_runs_without_links_is_taken_too(case: Case) -> None:
    message = make_message(
        contact=case.contact,
        run_id=None,
        events=[make_event(1), make_event(1, run_id="run-8")],
        confirm_url=None,
        unsubscribe_url=None,
    )
    case.channel.deliver(message, TIMEOUT)
    assert case.arrived() == 1
