"""What providers answer never decides whether the outcome can be recorded. Real sockets."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from delivery.domain.transports import Taken
from delivery.errors import ChannelError
from delivery.transports.mail.email import EmailTransport
from delivery.transports.rendering.render import Renderer
from delivery.transports.sms import SmsTransport
from tests.messages import make_message
from tests.smtp_servers import raw_server
from tests.web_server import Reply, WebServer, web_server

TIMEOUT = 5.0
RENDERER = Renderer()
TLS = ssl.create_default_context()
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=300)


def can_be_recorded(outcome: Taken | ChannelError) -> None:
    """Text that PostgreSQL, a log and a JSON answer take, and that fits its column."""
    texts = (
        [outcome.provider_id or "", outcome.note or ""]
        if isinstance(outcome, Taken)
        else [str(outcome)]
    )
    for text in texts:
        assert text.isprintable()
        assert text.encode().decode() == text
    assert len(texts[0]) <= 1_000
    if isinstance(outcome, Taken):
        assert outcome.provider_id is None or 0 < len(outcome.provider_id) <= 255


def outcome_of(channel: EmailTransport | SmsTransport) -> Taken | ChannelError:
    try:
        return channel.deliver(make_message(), TIMEOUT)
    except ChannelError as error:
        return error


class ScriptedSmtp:
    """Says yes up to a step of the conversation, then whatever it is told to."""

    def __init__(self) -> None:
        self.step = b"MAIL"
        self.answer = b"550 no"
        self._lock = threading.Lock()

    def talk(self, connection: socket.socket) -> None:
        """One conversation."""
        connection.sendall(b"220 here\r\n")
        lines = connection.makefile("rb")
        for line in lines:
            step = line[:4].upper()
            if step == self.step:
                connection.sendall(self.answer + b"\r\n")
                return
            if step == b"DATA":
                connection.sendall(b"354 go\r\n")
                while lines.readline() not in (b".\r\n", b""):
                    pass
                connection.sendall((self.answer if self.step == b"TEXT" else b"250 ok") + b"\r\n")
                continue
            connection.sendall(b"250 ok\r\n")


@pytest.fixture(scope="module")
def smtp() -> Iterator[tuple[ScriptedSmtp, EmailTransport]]:
    script = ScriptedSmtp()
    with raw_server(script.talk) as port:
        url = f"smtp://127.0.0.1:{port}?tls=none"
        yield script, EmailTransport(url, "ops@example.org", RENDERER, tls_context=TLS)


@given(
    step=st.sampled_from([b"MAIL", b"RCPT", b"DATA", b"TEXT"]),
    code=st.sampled_from([b"550", b"450", b"421", b"554", b"250", b"999", b"abc"]),
    words=st.binary(max_size=200),
)
@example(step=b"RCPT", code=b"550", words=b"5.1.1 no\x00such user")
@example(step=b"TEXT", code=b"554", words=b"\x00\xed\xa0\x80\x1b[31m\x85")
@settings(max_examples=60, deadline=None)
def test_a_mail_servers_words_can_be_recorded(
    smtp: tuple[ScriptedSmtp, EmailTransport], step: bytes, code: bytes, words: bytes
) -> None:
    script, channel = smtp
    script.step, script.answer = step, code + b" " + words.replace(b"\n", b"")
    can_be_recorded(outcome_of(channel))


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[WebServer, SmsTransport]]:
    with web_server() as server:
        yield server, SmsTransport(server.url, "AC1", "token", "+15005550006", RENDERER)


@given(
    status=st.sampled_from([200, 201, 400, 401, 429, 500, 503]),
    sid=st.one_of(ANYTHING, st.none(), st.integers(), st.lists(st.integers())),
    code=st.one_of(ANYTHING, st.integers(), st.lists(st.integers()), st.just({"a": []})),
    words=st.one_of(ANYTHING, st.none(), st.lists(ANYTHING, max_size=2)),
)
@example(status=201, sid="SM\x00", code=0, words="")
@example(status=201, sid="x" * 256, code=0, words="")
@example(status=400, sid="", code=[], words="no\x00\ud800")
@settings(max_examples=60, deadline=None)
def test_an_sms_gateways_words_can_be_recorded(
    gateway: tuple[WebServer, SmsTransport], status: int, sid: object, code: object, words: object
) -> None:
    server, channel = gateway
    body = json.dumps({"sid": sid, "code": code, "message": words}).encode()
    server.answer = lambda request: Reply(status, body)
    outcome = outcome_of(channel)
    can_be_recorded(outcome)
    assert isinstance(outcome, Taken) == (status < 300)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"\xff\xfe", b"", b"null", b'{"sid": ' + b"9" * 5_000 + b"}", b"x" * 300_000],
)
def test_an_answer_that_is_no_answer_counts_by_its_status(
    gateway: tuple[WebServer, SmsTransport], body: bytes
) -> None:
    server, channel = gateway
    for status in (201, 503):
        server.answer = lambda request, status=status: Reply(status, body)
        outcome = outcome_of(channel)
        can_be_recorded(outcome)
        assert isinstance(outcome, Taken) == (status == 201)


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 99 Foo 2026 99:99:99 +9999",
        "Thu, 01 Jan 0001 00:00:00 +2359",
        "٣",
        "9" * 5_000,
        "=?utf-8?q?1?=",
        "\x7f",
        "Mon",
    ],
)
def test_no_retry_after_stops_a_failure_from_being_one(
    gateway: tuple[WebServer, SmsTransport], value: str
) -> None:
    server, channel = gateway
    value = value.encode().decode("latin-1")
    server.answer = lambda request: Reply(503, headers={"Retry-After": value})
    outcome = outcome_of(channel)
    assert isinstance(outcome, ChannelError)
    assert outcome.retry_after is None or 0 <= outcome.retry_after <= 86_400
