"""The mail itself, as it leaves: headers that hold, bodies that agree, nothing injected."""

from __future__ import annotations

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest

from delivery.domain.lifecycle import Outcome
from delivery.domain.messages.brand import Brand
from delivery.errors import ChannelRejected, ConfigError
from delivery.tasks.attempts import result_of
from delivery.transports.mail.email import EmailTransport, message_id
from delivery.transports.mail.smtp import SmtpSession, parse_smtp_url
from delivery.transports.rendering.render import Renderer
from tests.messages import CONFIRM, UNSUBSCRIBE, make_event, make_message

URL = "smtp://127.0.0.1:1?tls=none"
FROM = "Delivery Ünit <noreply@delivery.example.org>"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bytes]]:
    """What would have gone out: sender, recipient, content."""
    gone: list[tuple[str, str, bytes]] = []

    def send(self: SmtpSession, sender: str, recipient: str, content: bytes) -> None:
        gone.append((sender, recipient, content))

    monkeypatch.setattr(SmtpSession, "send", send)
    return gone


def parsed(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=default)
    assert isinstance(message, EmailMessage)
    return message


RENDERER = Renderer()  # compiled once


def channel(**options: Any) -> EmailTransport:
    return EmailTransport(URL, FROM, RENDERER, **options)


def test_a_mail_carries_what_mail_providers_ask_for(sent: list[tuple[str, str, bytes]]) -> None:
    taken = channel().deliver(make_message(), 5.0)
    sender, recipient, raw = sent[0]
    mail = parsed(raw)
    assert (sender, recipient) == ("noreply@delivery.example.org", "ada@example.org")
    assert mail["Subject"] == "The agent finished"
    assert mail["From"] == FROM
    assert mail["Message-ID"] == "<digest-1@delivery.example.org>"
    assert taken.provider_id == "<digest-1@delivery.example.org>"
    assert mail["List-Unsubscribe"] == f"<{UNSUBSCRIBE}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime.tzinfo is not None
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


def test_a_long_link_stays_whole_in_its_header(sent: list[tuple[str, str, bytes]]) -> None:
    channel().deliver(make_message(), 5.0)
    assert f"List-Unsubscribe: <{UNSUBSCRIBE}>\r\n".encode() in sent[0][2]


def test_no_line_is_longer_than_smtp_allows_and_all_end_with_crlf(
    sent: list[tuple[str, str, bytes]],
) -> None:
    events = [make_event(n, "note", {"message": "ä" * 130}) for n in range(50)]
    channel().deliver(make_message(events=events), 5.0)
    raw = sent[0][2]
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert raw.isascii()


def test_both_bodies_hold_the_confirm_link(sent: list[tuple[str, str, bytes]]) -> None:
    channel().deliver(make_message(), 5.0)
    text, html = (part.get_content() for part in parsed(sent[0][2]).iter_parts())
    assert CONFIRM in text
    assert CONFIRM.replace("&", "&amp;") in html


def test_the_same_message_keeps_its_message_id_and_another_gets_its_own(
    sent: list[tuple[str, str, bytes]],
) -> None:
    ids = [
        channel().deliver(make_message(key=key, number=n), 5.0).provider_id
        for key, n in (("a", 1), ("a", 2), ("b", 1))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_mail_without_links_has_no_unsubscribe_header(
    sent: list[tuple[str, str, bytes]],
) -> None:
    channel().deliver(make_message(confirm_url=None, unsubscribe_url=None), 5.0)
    mail = parsed(sent[0][2])
    assert mail["List-Unsubscribe"] is None
    assert mail["List-Unsubscribe-Post"] is None


def test_no_text_of_an_event_reaches_the_headers_as_a_header(
    sent: list[tuple[str, str, bytes]],
) -> None:
    evil = "x\r\nBcc: evil@example.org\r\n\r\n<b>body</b>"
    message = make_message(
        run_id=evil, key=evil, events=[make_event(1, "agent_completed", {"summary": evil})]
    )
    channel().deliver(message, 5.0)
    mail = parsed(sent[0][2])
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("The agent finished: x Bcc: evil@example.org")
    assert len(mail.get_all("To")) == 1
    assert mail.defects == []


@pytest.mark.parametrize(
    "address", ["ada@example.org\r\nBcc: x@example.org", "ada@example.org>, <x@example.org", "ada"]
)
def test_an_address_that_would_inject_is_refused(
    sent: list[tuple[str, str, bytes]], address: str
) -> None:
    with pytest.raises(ChannelRejected):
        channel().deliver(make_message(contact={"email": address}), 5.0)
    assert sent == []


@pytest.mark.parametrize(
    "url",
    [
        "https://x.example.org/a\r\nBcc: x",
        "https://x.example.org/>,<https://evil",
        "ftp://x.example.org",
        "https://x.example.org/" + "t" * 1_000,
    ],
)
def test_an_unsubscribe_link_that_cannot_stand_in_a_header_is_a_configuration_fault(
    sent: list[tuple[str, str, bytes]], url: str
) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_PUBLIC_URL"):
        channel().deliver(make_message(unsubscribe_url=url), 5.0)
    assert sent == []


@pytest.mark.parametrize(
    ("key", "left"),
    [("digest-1", "digest-1"), ("<digest-1@delivery>", "digest-1"), ("a.b_c", "a.b_c")],
)
def test_a_plain_key_is_readable_in_the_message_id(key: str, left: str) -> None:
    assert message_id(key, "example.org") == f"<{left}@example.org>"


@pytest.mark.parametrize("key", ["", "a b", "a..b", "a.", "ü", "x" * 101, "a\r\nb", ">"])
def test_a_key_that_cannot_stand_in_a_message_id_is_hashed(key: str) -> None:
    made = message_id(key, "example.org")
    assert made == message_id(key, "example.org")
    assert len(made) == len("<@example.org>") + 64


def test_a_contact_without_an_address_is_unreachable() -> None:
    contact = make_message(contact={"email": None}).contact
    assert channel().unreachable(contact) == "no email address"
    assert channel().unreachable(make_message().contact) is None


@pytest.mark.parametrize("mail_from", ["", "name", "a@b\r\nBcc: c@d", "ü@example.org"])
def test_a_sender_that_is_no_address_is_a_configuration_fault(mail_from: str) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_MAIL_FROM"):
        EmailTransport(URL, mail_from, RENDERER)


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [
        ("smtp://mail.example.org", 587, "starttls"),
        ("smtp://mail.example.org?tls=none", 25, "none"),
        ("smtp://mail.example.org?tls=implicit", 465, "implicit"),
        ("smtp://mail.example.org:465", 465, "implicit"),
        ("smtp://mail.example.org:2525/", 2525, "starttls"),
    ],
)
def test_a_url_without_tls_gets_the_safe_kind(url: str, port: int, tls: str) -> None:
    server = parse_smtp_url(url)
    assert (server.host, server.port, server.tls) == ("mail.example.org", port, tls)


def test_a_login_is_decoded_and_its_password_shown_nowhere() -> None:
    server = parse_smtp_url("smtp://me%40example.org:p%3A%2Fss@[::1]:25?tls=none")
    assert (server.user, server.password, server.host) == ("me@example.org", "p:/ss", "::1")
    assert "p:/ss" not in f"{server!r} {server}"


@pytest.mark.parametrize(
    "url",
    [
        "http://u:sesame@h",
        "smtp://u:sesame@",
        "smtp://u:sesame@h:x",
        "smtp://u:sesame@h?tls=maybe",
        "smtp://u:sesame@h?verify=no",
        "smtp://sesame@h",
        "smtp://u:sesame@h/path",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="DELIVERY_SMTP_URL") as caught:
        parse_smtp_url(url)
    assert "sesame" not in str(caught.value)


def test_what_is_left_out_of_a_mail_stands_in_the_record_of_its_attempt(
    sent: list[tuple[str, str, bytes]],
) -> None:
    event = make_event(1, "order_sent", {"title": "Sent", "url": "https://evil.example/x"})
    taken = channel().deliver(make_message(events=[event]), 5.0)
    assert "url leads to https://evil.example, which is not listed" in (taken.fault or "")
    result = result_of("email", lambda: taken)
    assert (result.outcome, result.error) == (Outcome.DELIVERED, taken.fault)
    assert channel().deliver(make_message(), 5.0).fault is None
    assert len(sent) == 2


def test_answers_go_where_the_settings_say_and_the_brand_names_the_sender(
    sent: list[tuple[str, str, bytes]],
) -> None:
    renderer = Renderer(brand=Brand(name="Acme, Inc."))
    answers = "Ada <support@example.org>"
    made = EmailTransport(URL, "noreply@example.org", renderer, reply_to=answers)
    made.deliver(make_message(), 5.0)
    mail = parsed(sent[0][2])
    assert mail["Reply-To"] == "Ada <support@example.org>"
    assert mail["From"].addresses[0].display_name == "Acme, Inc."
    with pytest.raises(ConfigError, match="DELIVERY_MAIL_REPLY_TO"):
        EmailTransport(URL, "noreply@example.org", renderer, reply_to="nobody")
