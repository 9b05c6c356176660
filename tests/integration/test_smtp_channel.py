"""The email channel against real SMTP servers: what each answer means for the message."""

from __future__ import annotations

import logging
import smtplib
import socket
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from delivery.errors import ChannelError, ChannelRejected, ChannelUnavailable, OutcomeUnknown
from delivery.transports.mail import smtp
from delivery.transports.mail.email import EmailTransport
from delivery.transports.rendering.render import Renderer
from tests.messages import make_event, make_message
from tests.smtp_servers import PASSWORD, USER, Behaviour, certificate, raw_server, smtp_server

FROM = "noreply@delivery.example.org"
TIMEOUT = 5.0


def channel(port: int, tls: str = "none", login: str = "", **options: Any) -> EmailTransport:
    return EmailTransport(f"smtp://{login}127.0.0.1:{port}?tls={tls}", FROM, Renderer(), **options)


def login_of(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@"


def test_a_mail_arrives_as_it_was_written() -> None:
    behaviour = Behaviour()
    with smtp_server(behaviour) as server:
        taken = channel(server.port).deliver(make_message(), TIMEOUT)
    envelope = behaviour.messages[0]
    assert (envelope.mail_from, envelope.rcpt_tos) == (FROM, ["ada@example.org"])
    assert taken.provider_id is not None
    assert isinstance(envelope.content, bytes)
    assert f"Message-ID: {taken.provider_id}\r\n".encode() in envelope.content


def test_a_mail_carries_its_reference_for_the_providers_that_are_used() -> None:
    behaviour = Behaviour()
    used = ("ses", "sendgrid", "mailgun", "postmark", "resend")
    with smtp_server(behaviour) as server:
        taken = channel(server.port, providers=used).deliver(make_message(), TIMEOUT)
        channel(server.port).deliver(make_message(), TIMEOUT)
    first, second = (
        bytes(envelope.content or b"").partition(b"\r\n\r\n")[0] for envelope in behaviour.messages
    )
    key = (taken.provider_id or "").strip("<>").partition("@")[0].encode()
    for name in (b"X-SES-MESSAGE-TAGS", b"X-SMTPAPI", b"X-Mailgun-Variables", b"X-PM-Metadata-"):
        [line] = [line for line in first.split(b"\r\n") if line.startswith(name)]
        assert key in line
        assert name not in second


def test_a_line_that_begins_with_a_dot_arrives_whole() -> None:
    behaviour = Behaviour()
    with smtp_server(behaviour) as server:
        session = smtp.SmtpSession(
            smtp.parse_smtp_url(f"smtp://127.0.0.1:{server.port}?tls=none"),
            ssl.create_default_context(),
            smtp.Deadline(TIMEOUT),
            "here",
        )
        session.send(FROM, "ada@example.org", b".first\r\nA: b\r\n\r\n.\r\n..x\r\nend")
    assert behaviour.messages[0].content == b".first\r\nA: b\r\n\r\n.\r\n..x\r\nend\r\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("550 5.1.1 no such user", ChannelRejected),
        ("553 5.1.3 bad mailbox", ChannelRejected),
        ("450 4.2.1 try later", ChannelUnavailable),
        ("451 4.7.1 greylisted", ChannelUnavailable),
        ("421 4.3.2 closing", ChannelUnavailable),
        ("530 5.7.0 authenticate first", ChannelUnavailable),
    ],
)
def test_a_recipient_is_refused_for_good_or_for_now_by_the_code(
    answer: str, error: type[Exception]
) -> None:
    behaviour = Behaviour(recipients={"ada@example.org": answer})
    with smtp_server(behaviour) as server, pytest.raises(error, match=answer[:3]) as caught:
        channel(server.port).deliver(make_message(), TIMEOUT)
    assert type(caught.value) is error
    assert behaviour.messages == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("554 5.7.1 looks like spam", ChannelRejected),
        ("552 5.3.4 too big", ChannelRejected),
        ("452 4.3.1 disk full", ChannelUnavailable),
    ],
)
def test_a_message_is_refused_for_good_or_for_now_by_the_code(
    answer: str, error: type[Exception]
) -> None:
    with smtp_server(Behaviour(data=answer)) as server, pytest.raises(error) as caught:
        channel(server.port).deliver(make_message(), TIMEOUT)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("550 5.1.1 <ada@example.org>: Recipient address rejected", "5.1.1"),
        ("550-5.1.10 no mail here\r\n550 5.1.10 at all", "5.1.10"),
        ("550 No such user here", "550"),
        ("550 5.7.1 no such user, says our policy", None),
        ("550 rejected by policy", None),
        ("550 sender rejected: user unknown", None),
        ("552 5.2.2 mailbox full", None),
        ("450 4.1.1 no such user yet", None),
    ],
)
def test_only_a_mailbox_that_does_not_exist_is_suppressed(answer: str, code: str | None) -> None:
    behaviour = Behaviour(recipients={"ada@example.org": answer})
    with smtp_server(behaviour) as server, pytest.raises(ChannelError) as caught:
        channel(server.port).deliver(make_message(), TIMEOUT)
    assert (caught.value.suppress, caught.value.code) == (code and "hard_bounce", code)


@pytest.mark.parametrize("answer", ["550 5.7.1 not you", "451 4.3.0 later"])
def test_a_refused_sender_says_nothing_about_the_recipient(answer: str) -> None:
    refused = pytest.raises(ChannelUnavailable, match="refused the sender")
    with smtp_server(Behaviour(sender=answer)) as server, refused:
        channel(server.port).deliver(make_message(), TIMEOUT)


def test_a_server_that_hangs_after_the_message_leaves_the_outcome_unknown() -> None:
    behaviour = Behaviour(data=None)
    with smtp_server(behaviour) as server:
        begun = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="may have been delivered"):
            channel(server.port).deliver(make_message(), 1.0)
        assert time.monotonic() - begun < 4.0
        assert len(behaviour.messages) == 1


def test_a_connection_cut_after_the_message_leaves_the_outcome_unknown() -> None:
    behaviour = Behaviour(cut=True)
    with smtp_server(behaviour) as server, pytest.raises(OutcomeUnknown):
        channel(server.port).deliver(make_message(), TIMEOUT)
    assert len(behaviour.messages) == 1


def test_a_connection_cut_before_the_message_is_a_plain_failure() -> None:
    def cut_after_mail(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        heard = b""
        while b"MAIL" not in heard.upper():
            heard = connection.recv(1024)
            if b"MAIL" not in heard.upper():
                connection.sendall(b"250 OK\r\n")

    lost = pytest.raises(ChannelUnavailable, match="before the message was sent")
    with raw_server(cut_after_mail) as port, lost:
        channel(port).deliver(make_message(), TIMEOUT)


def test_a_connection_cut_in_the_middle_of_the_message_is_a_plain_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = smtplib.SMTP.send

    def cut_body(self: smtplib.SMTP, content: bytes | str) -> None:
        if isinstance(content, bytes) and content.endswith(b"\r\n.\r\n") and self.sock:
            send(self, content[:100])
            self.sock.shutdown(socket.SHUT_WR)
        send(self, content)

    monkeypatch.setattr(smtplib.SMTP, "send", cut_body)
    behaviour = Behaviour()
    lost = pytest.raises(ChannelUnavailable, match="before the message was complete")
    with smtp_server(behaviour) as server, lost:
        channel(server.port).deliver(make_message(), TIMEOUT)
    assert behaviour.messages == []


def test_a_refused_connection_is_tried_again_and_then_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[object] = []
    connect = smtplib.SMTP.connect

    def counted(self: smtplib.SMTP, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
        tries.append(args)
        return connect(self, *args, **kwargs)

    monkeypatch.setattr(smtplib.SMTP, "connect", counted)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChannelUnavailable, match="while connecting"):
        channel(port).deliver(make_message(), TIMEOUT)
    assert len(tries) == smtp.CONNECT_ATTEMPTS


def test_a_server_that_turns_us_away_once_is_asked_again_in_the_same_attempt() -> None:
    greetings = [b"421 too busy\r\n", b"220 hello\r\n"]

    def talk(connection: socket.socket) -> None:
        connection.sendall(greetings.pop(0))
        lines = connection.makefile("rb")
        for line in lines:
            if line.upper().startswith(b"DATA"):
                connection.sendall(b"354 go\r\n")
                while lines.readline() not in (b".\r\n", b""):
                    pass
            connection.sendall(b"250 OK\r\n")

    with raw_server(talk) as port:
        assert channel(port).deliver(make_message(), TIMEOUT).provider_id
    assert greetings == []


def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time() -> None:
    def silent(connection: socket.socket) -> None:
        connection.recv(1)

    with raw_server(silent) as port:
        begun = time.monotonic()
        with pytest.raises(ChannelUnavailable):
            channel(port).deliver(make_message(), 0.5)
        assert time.monotonic() - begun < 15.0


def test_starttls_and_a_login_work_with_a_certificate_that_can_be_verified(
    tmp_path: Path,
) -> None:
    server_tls, client_tls = certificate(tmp_path)
    behaviour = Behaviour()
    with smtp_server(
        behaviour,
        tls_context=server_tls,
        require_starttls=True,
        auth_required=True,
        authenticator=behaviour.authenticate,
    ) as server:
        login = login_of(USER, PASSWORD)
        channel(server.port, "starttls", login, tls_context=client_tls).deliver(
            make_message(), TIMEOUT
        )
    assert behaviour.logins == [USER]
    assert behaviour.over_tls == [True]


def test_implicit_tls_works_too(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path)
    behaviour = Behaviour()
    with smtp_server(behaviour, ssl_context=server_tls) as server:
        channel(server.port, "implicit", tls_context=client_tls).deliver(make_message(), TIMEOUT)
    assert len(behaviour.messages) == 1


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_that_cannot_be_verified_stops_the_attempt_before_any_word(
    tmp_path: Path, tls: str
) -> None:
    server_tls, _ = certificate(tmp_path)
    behaviour = Behaviour()
    options = {"tls_context": server_tls} if tls == "starttls" else {"ssl_context": server_tls}
    refused = pytest.raises(ChannelUnavailable, match="certificate")
    with smtp_server(behaviour, **options) as server, refused:
        channel(server.port, tls).deliver(make_message(), TIMEOUT)
    assert behaviour.messages == []
    assert behaviour.connections <= 1


def test_a_certificate_of_another_host_is_not_accepted(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path, "127.0.0.2")
    refused = pytest.raises(ChannelUnavailable, match="certificate")
    with smtp_server(Behaviour(), tls_context=server_tls) as server, refused:
        channel(server.port, "starttls", tls_context=client_tls).deliver(make_message(), TIMEOUT)


def test_a_server_without_starttls_gets_no_mail_in_the_clear() -> None:
    behaviour = Behaviour()
    with smtp_server(behaviour) as server, pytest.raises(ChannelUnavailable, match="STARTTLS"):
        channel(server.port, "starttls").deliver(make_message(), TIMEOUT)
    assert behaviour.messages == []


def test_a_refused_login_is_unavailable_and_shows_no_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server_tls, client_tls = certificate(tmp_path)
    behaviour = Behaviour()
    with (
        smtp_server(
            behaviour, tls_context=server_tls, authenticator=behaviour.authenticate
        ) as server,
        pytest.raises(ChannelUnavailable, match="refused the login") as caught,
    ):
        channel(
            server.port, "starttls", login_of(USER, "wrong-horse"), tls_context=client_tls
        ).deliver(make_message(), TIMEOUT)
    assert "DELIVERY_SMTP_URL" in str(caught.value)
    assert "wrong-horse" not in f"{caught.value!r}{caught.value.__cause__!r}"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("delivery")]
    assert "wrong-horse" not in "".join(ours)


def test_errors_of_a_provider_name_where_its_values_stand(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path)
    behaviour = Behaviour()
    options: dict[str, Any] = {
        "tls_context": client_tls,
        "login": (USER, "wrong-horse"),
        "settings": ("p.toml: provider.ses.url", "p.toml: provider.ses.from"),
    }
    with smtp_server(
        behaviour, tls_context=server_tls, authenticator=behaviour.authenticate
    ) as server:
        url = f"smtp://127.0.0.1:{server.port}?tls=starttls"
        transport = EmailTransport(url, FROM, Renderer(), **options)
        with pytest.raises(ChannelUnavailable, match=r"in p\.toml: provider\.ses\.url") as caught:
            transport.deliver(make_message(), TIMEOUT)
    assert "wrong-horse" not in str(caught.value)


def test_a_login_that_the_server_does_not_offer_is_unavailable() -> None:
    refused = pytest.raises(ChannelUnavailable, match="offers no supported login")
    with smtp_server(Behaviour()) as server, refused:
        channel(server.port, "none", login_of(USER, PASSWORD)).deliver(make_message(), TIMEOUT)


def test_an_address_beyond_ascii_needs_a_server_that_takes_it() -> None:
    message = make_message(contact={"email": "jürgen@example.org"})
    behaviour = Behaviour()
    with smtp_server(behaviour) as server:
        channel(server.port).deliver(message, TIMEOUT)
    assert behaviour.messages[0].rcpt_tos == ["jürgen@example.org"]
    refused = pytest.raises(ChannelRejected, match="characters")
    with smtp_server(Behaviour(), enable_SMTPUTF8=False) as server, refused:
        channel(server.port).deliver(message, TIMEOUT)


def test_a_mail_of_a_thousand_events_still_goes_out() -> None:
    behaviour = Behaviour()
    events = [make_event(n, "note", {"message": f"ü {n}"}) for n in range(1_000)]
    with smtp_server(behaviour) as server:
        channel(server.port).deliver(make_message(events=events), TIMEOUT)
    assert len(behaviour.messages) == 1
