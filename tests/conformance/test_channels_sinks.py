"""The local sinks: kept messages, answers, and status callbacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_string
from email.policy import default
from urllib.parse import parse_qs

import pytest

from delivery.domain.transports import SinkMessage
from delivery.errors import ChannelRejected, ChannelUnavailable
from delivery.transports.mail.email import EmailTransport
from delivery.transports.rendering.render import Renderer
from delivery.transports.sink_http import twilio_signature
from delivery.transports.sinks import MailSink, SinkInbox, SmsSink
from delivery.transports.sms import SmsTransport
from tests.messages import CONFIRM, make_message
from tests.web_server import Request, WebServer, web_server

TOKEN = "token-1"


def numbered(number: int) -> SinkMessage:
    return SinkMessage("sms", "+49170", "", str(number), datetime.now(UTC), f"SM{number}")


@pytest.fixture
def mail_sink() -> Iterator[MailSink]:
    sink = MailSink()
    sink.start()
    yield sink
    sink.stop()


@pytest.fixture
def sms_sink() -> Iterator[SmsSink]:
    sink = SmsSink(token=TOKEN, account="AC1")
    sink.start()
    yield sink
    sink.stop()


def sms_channel(sink: SmsSink, account: str = "AC1", token: str = TOKEN) -> SmsTransport:
    return SmsTransport(sink.url, account, token, "+15005550006", Renderer())


def statuses(requests: list[Request]) -> list[str]:
    return [parse_qs(request.body.decode())["MessageStatus"][0] for request in requests]


def test_an_inbox_is_newest_first_and_forgets_the_oldest() -> None:
    inbox = SinkInbox(limit=3)
    for number in range(5):
        inbox.add(numbered(number))
    assert [message.body for message in inbox.messages()] == ["4", "3", "2"]
    inbox.clear()
    assert inbox.messages() == []


def test_an_inbox_wakes_a_thread_that_waits_for_a_message() -> None:
    inbox = SinkInbox()
    threading.Thread(target=inbox.add, args=(numbered(1),)).start()
    assert len(inbox.wait_for(1, 5.0)) == 1
    assert len(inbox.wait_for(2, 0.01)) == 1


def test_a_mail_is_kept_raw_with_its_subject_and_recipient(mail_sink: MailSink) -> None:
    taken = EmailTransport(mail_sink.url, "noreply@example.org", Renderer()).deliver(
        make_message(contact={"locale": "de"}), 5.0
    )
    (kept,) = mail_sink.inbox.messages()
    assert (kept.kind, kept.to, kept.id) == ("email", "ada@example.org", taken.provider_id)
    assert kept.subject == "Der Agent ist fertig"
    mail = message_from_string(kept.body, policy=default)
    body = mail.get_body(("plain",))  # type: ignore[attr-defined]
    assert CONFIRM in body.get_content()


def test_a_sink_that_is_stopped_frees_its_port_and_starts_again(mail_sink: MailSink) -> None:
    port = mail_sink.port
    mail_sink.stop()
    mail_sink.stop()
    mail_sink.start()
    mail_sink.start()
    assert mail_sink.port == port
    EmailTransport(mail_sink.url, "noreply@example.org", Renderer()).deliver(make_message(), 5.0)
    assert len(mail_sink.inbox.messages()) == 1


def test_a_port_that_is_taken_is_an_error(mail_sink: MailSink, sms_sink: SmsSink) -> None:
    with pytest.raises(OSError, match="in use"):
        MailSink(port=mail_sink.port).start()
    with pytest.raises(OSError, match="in use"):
        SmsSink(port=sms_sink.port, token=TOKEN).start()


def test_both_sinks_can_share_one_inbox() -> None:
    inbox = SinkInbox()
    mail, sms = MailSink(inbox=inbox), SmsSink(token=TOKEN, inbox=inbox)
    mail.start()
    sms.start()
    EmailTransport(mail.url, "noreply@example.org", Renderer()).deliver(make_message(), 5.0)
    sms_channel(sms).deliver(make_message(), 5.0)
    assert [message.kind for message in inbox.messages()] == ["sms", "email"]
    sms.stop()
    mail.stop()


@pytest.mark.parametrize("number", ["+15005550001", "+15005550009", "+15005550004"])
def test_the_sms_sink_refuses_twilios_magic_numbers(sms_sink: SmsSink, number: str) -> None:
    with pytest.raises(ChannelRejected):
        sms_channel(sms_sink).deliver(make_message(contact={"phone": number}), 5.0)
    assert sms_sink.inbox.messages() == []


def test_the_sms_sink_asks_for_the_right_account_and_token(sms_sink: SmsSink) -> None:
    for account, token in (("AC2", TOKEN), ("AC1", "wrong")):
        with pytest.raises(ChannelUnavailable, match="401"):
            sms_channel(sms_sink, account, token).deliver(make_message(), 5.0)
    assert sms_sink.inbox.messages() == []


def expect_signed(server: WebServer, requests: list[Request]) -> None:
    for request in requests:
        fields = {
            name: values[0]
            for name, values in parse_qs(request.body.decode(), keep_blank_values=True).items()
        }
        signature = twilio_signature(TOKEN, server.url + request.path, fields)
        assert request.headers["X-Twilio-Signature"] == signature


def test_the_sms_sink_never_claims_a_delivery_by_itself(sms_sink: SmsSink) -> None:
    with web_server() as server:
        callback = f"{server.url}/cb?x=1"
        taken = sms_channel(sms_sink).deliver(make_message(callback_url=callback), 5.0)
        requests = server.wait_for(2)
        assert statuses(requests) == ["queued", "sent"]
        expect_signed(server, requests)
        assert taken.provider_id is not None
        sms_sink.deliver(taken.provider_id)
        requests = server.wait_for(3)
        assert statuses(requests) == ["queued", "sent", "delivered"]
        expect_signed(server, requests)
        assert parse_qs(requests[2].body.decode())["MessageSid"] == [taken.provider_id]


def test_the_sms_sink_claims_a_delivery_when_told_to() -> None:
    sink = SmsSink(token=TOKEN, delivers=True)
    sink.start()
    with web_server() as server:
        sms_channel(sink).deliver(make_message(callback_url=f"{server.url}/cb"), 5.0)
        assert statuses(server.wait_for(3)) == ["queued", "sent", "delivered"]
    sink.stop()


def test_a_receipt_for_an_unknown_message_is_an_error(sms_sink: SmsSink) -> None:
    with pytest.raises(KeyError):
        sms_sink.deliver("SM0")


def test_twilios_own_example_of_a_signature_holds() -> None:
    # Source: Twilio, "Webhooks security", the worked example.
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675310",
        "Digits": "1234",
        "From": "+14158675310",
        "To": "+18005551212",
    }
    url = "https://example.com/myapp.php?foo=1&bar=2"
    assert twilio_signature("12345", url, form) == "L/OH5YylLD5NRKLltdqwSvS0BnU="
