"""The SMS channel against an HTTP server of Twilio's shape: what each answer means."""

from __future__ import annotations

import base64
import json
import logging
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs

import pytest

from delivery.errors import ChannelRejected, ChannelUnavailable, ConfigError, OutcomeUnknown
from delivery.transports.rendering.render import Renderer
from delivery.transports.sms import SmsTransport
from tests.messages import CONFIRM, make_message
from tests.web_server import Reply, WebServer, web_server

TIMEOUT = 5.0
TOKEN = "a-very-secret-token"


def channel(url: str, sender: str = "+15005550006", **options: Any) -> SmsTransport:
    return SmsTransport(url, "AC 1/2", TOKEN, sender, Renderer(), **options)


def answering(server: WebServer, status: int, body: object = None, **headers: str) -> SmsTransport:
    raw = json.dumps(body).encode() if body is not None else b"<html>"
    server.answer = lambda request: Reply(status, raw, headers)
    return channel(server.url)


def form_of(server: WebServer, number: int = 0) -> dict[str, str]:
    body = server.wait_for(number + 1)[number].body.decode()
    return {name: values[0] for name, values in parse_qs(body).items()}


def test_a_text_is_posted_in_twilios_shape_and_named_by_its_sid() -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(201, b'{"sid": "SM1", "status": "queued"}')
        sms = channel(server.url + "/", status_callback="https://d.example.org/default")
        taken = sms.deliver(make_message(callback_url="https://d.example.org/cb"), TIMEOUT)
        sms.deliver(make_message(), TIMEOUT)
        request = server.requests[0]
        form = form_of(server)
        assert form_of(server, 1)["StatusCallback"] == "https://d.example.org/default"
    assert taken.provider_id == "SM1"
    assert (request.method, request.path) == (
        "POST",
        "/2010-04-01/Accounts/AC%201%2F2/Messages.json",
    )
    scheme, _, login = request.headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(login).decode()) == ("Basic", f"AC 1/2:{TOKEN}")
    assert form["To"] == "+491701234567"
    assert form["From"] == "+15005550006"
    assert form["StatusCallback"] == "https://d.example.org/cb"
    assert CONFIRM in form["Body"]


def test_the_idempotency_key_is_the_same_on_every_attempt() -> None:
    with web_server() as server:
        sms = answering(server, 201, {"sid": "SM1"})
        for number in (1, 2):
            sms.deliver(make_message(key="digest-9", number=number), TIMEOUT)
        keys = [request.headers["I-Twilio-Idempotency-Token"] for request in server.requests]
    assert keys == ["digest-9", "digest-9"]


def test_a_messaging_service_is_no_number() -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(201, b'{"sid": "SM1"}')
        channel(server.url, "MG123").deliver(make_message(), TIMEOUT)
        form = form_of(server)
    assert form["MessagingServiceSid"] == "MG123"
    assert "From" not in form


def test_a_taken_text_without_a_name_is_still_taken() -> None:
    with web_server() as server:
        taken = answering(server, 201).deliver(make_message(), TIMEOUT)
    assert taken.provider_id is None
    assert taken.note


@pytest.mark.parametrize("code", [21211, 21614, 21610, 21408, 21612, 30003])
def test_a_refused_recipient_is_refused_for_good(code: int) -> None:
    with web_server() as server, pytest.raises(ChannelRejected, match=str(code)) as caught:
        answering(server, 400, {"code": code, "message": "no"}).deliver(make_message(), TIMEOUT)
    assert not caught.value.retryable


@pytest.mark.parametrize("code", [21611, 14107, 21606])
def test_what_is_about_us_or_the_moment_may_be_tried_again(code: int) -> None:
    with web_server() as server, pytest.raises(ChannelUnavailable, match=str(code)):
        answering(server, 400, {"code": code, "message": "no"}).deliver(make_message(), TIMEOUT)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 302, 307])
def test_an_overloaded_gateway_may_be_tried_again(status: int) -> None:
    with web_server() as server, pytest.raises(ChannelUnavailable) as caught:
        answering(server, status, **{"Retry-After": "17"}).deliver(make_message(), TIMEOUT)
    assert caught.value.retry_after == 17.0


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("later", None, None), ("999999999", 86_400, 86_400), ("-5", None, None)],
)
def test_a_retry_after_is_read_with_care(
    value: str, least: float | None, most: float | None
) -> None:
    with web_server() as server, pytest.raises(ChannelUnavailable) as caught:
        answering(server, 503, **{"Retry-After": value}).deliver(make_message(), TIMEOUT)
    assert caught.value.retry_after == least == most


def test_a_retry_after_may_be_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)
    with web_server() as server, pytest.raises(ChannelUnavailable) as caught:
        answering(server, 429, **{"Retry-After": at}).deliver(make_message(), TIMEOUT)
    assert caught.value.retry_after is not None
    assert 60 < caught.value.retry_after <= 121


@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_credentials_name_the_settings_and_show_no_token(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "delivery")
    with web_server() as server, pytest.raises(ChannelUnavailable, match="SMS_TOKEN") as caught:
        answering(server, status, {"code": 20003, "message": "no"}).deliver(make_message(), TIMEOUT)
    assert TOKEN not in f"{caught.value!r}{caplog.text}"


def test_a_gateway_that_hangs_leaves_the_outcome_unknown() -> None:
    with web_server() as server:
        server.answer = lambda request: Reply(hang=True)
        begun = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            channel(server.url).deliver(make_message(), 0.5)
        assert time.monotonic() - begun < 3.0
        assert len(server.requests) == 1


def test_a_connection_cut_after_the_request_leaves_the_outcome_unknown_and_is_not_repeated() -> (
    None
):
    with web_server() as server:
        server.answer = lambda request: Reply(reset=True)
        with pytest.raises(OutcomeUnknown):
            channel(server.url).deliver(make_message(), TIMEOUT)
        assert len(server.requests) == 1


def test_a_refused_connection_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChannelUnavailable, match="cannot be reached"):
        channel(f"http://127.0.0.1:{port}").deliver(make_message(), TIMEOUT)


def test_a_gateway_that_comes_up_within_the_attempt_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import httpx

    with web_server() as server:
        sms = answering(server, 201, {"sid": "SM1"})
        post = httpx.Client.post
        fails = [True, True]

        def refused_twice(self: httpx.Client, *args: Any, **kwargs: Any) -> httpx.Response:
            if fails:
                fails.pop()
                raise httpx.ConnectError("connection refused")
            return post(self, *args, **kwargs)

        monkeypatch.setattr(httpx.Client, "post", refused_twice)
        assert sms.deliver(make_message(), TIMEOUT).provider_id == "SM1"


def test_a_contact_without_a_number_is_unreachable() -> None:
    sms = channel("http://127.0.0.1:1")
    message = make_message(contact={"phone": None})
    assert sms.unreachable(message.contact) == "no phone number"
    assert sms.unreachable(make_message().contact) is None
    with pytest.raises(ChannelRejected):
        sms.deliver(message, TIMEOUT)


@pytest.mark.parametrize("url", ["", "api.twilio.com", "ftp://x", "http://", "http://h:port"])
def test_a_base_url_that_cannot_be_used_is_a_configuration_fault(url: str) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_SMS_URL"):
        channel(url)
