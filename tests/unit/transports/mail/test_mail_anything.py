"""Mails of arbitrary text: every server can take them, every reader decodes what was meant."""

from __future__ import annotations

import re
import ssl
import unicodedata
from email import message_from_bytes, message_from_string, policy
from email.message import EmailMessage

import fast_mail_parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from delivery.domain.users.contact import Contact
from delivery.errors import ChannelRejected, ConfigError
from delivery.transports.mail.check import Expected, mail_faults
from delivery.transports.mail.email import EmailTransport
from delivery.transports.mail.smtp import SmtpSession
from delivery.transports.rendering.render import Renderer
from tests.messages import make_event, make_message

RENDERER = Renderer()
TLS = ssl.create_default_context()  # loaded once
URL = "smtp://127.0.0.1:1?tls=none"
FROM = "Delivery <noreply@delivery.example.org>"
# Text that decodes to something else, or that others have choked on, between arbitrary text.
TRAPS = [
    "=?utf-8?q?x=0d=0aBcc:_evil@example.org=0d=0a=0d=0abody?=",
    "=?utf-8?b?DQpCY2M6IGV2aWxAZXhhbXBsZS5vcmc=?=",
    "=?us-ascii*en?q?=00?=",
    "=?",
    "?=",
    "filename*=utf-8''%0d%0aBcc:x",
    "%0d%0aBcc:%20x",
    "&#13;&#10;Bcc: x",
    '"\\u000d\\u000aBcc: x"',
    "\r\nBcc: x",
    "\r\n.\r\n",
    "\n\n",
    "\x00",
    "\ud800",
    "\u2028",
    "\u202e",
    "\u200f",
    "\uff1d\uff1f",
    "👩‍👩‍👧‍👦",
    "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "🇩🇪",
    "Ångström",
    "שלום",
    "नमस्ते",
    "می‌خواهم",
    "Z͑ͫ̓a",
]
TEXTS = st.lists(
    st.one_of(st.text(max_size=30), st.sampled_from(TRAPS), st.characters(exclude_categories=())),
    max_size=12,
).map("".join)
# What an event can say came as UTF-8.
SAID = TEXTS.map(lambda text: text.encode("utf-8", "replace").decode())


class Gone:
    """What left: the envelope and the mail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[tuple[str, str, bytes]] = []

        def send(session: SmtpSession, sender: str, recipient: str, content: bytes) -> None:
            self.all.append((sender, recipient, content))

        monkeypatch.setattr(SmtpSession, "send", send)

    def mail(self, sender: str = FROM, **fields: object) -> bytes:
        """Deliver one and look at it."""
        channel = EmailTransport(URL, sender, RENDERER, tls_context=TLS)
        channel.deliver(make_message(**fields), 5.0)  # type: ignore[arg-type]
        return self.all[-1][2]


@pytest.fixture(scope="module")
def gone() -> object:
    with pytest.MonkeyPatch.context() as patch:
        yield Gone(patch)


def strict_lines(raw: bytes) -> dict[str, str]:
    """The header's raw fields by name, after a check that owes nothing to the product's."""
    assert raw.replace(b"\r\n", b"").translate(None, b"\r\n\0") == raw.replace(b"\r\n", b"")
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    head = raw.split(b"\r\n\r\n", 1)[0].decode()
    for line in head.split("\r\n"):
        words = re.findall(r"=\?.*?\?.\?.*?\?=", line)
        assert all(len(word) <= 75 for word in words)
        assert not words or len(line) <= 76
    fields = re.sub(r"\r\n[ \t]", " ", head).split("\r\n")
    named = dict(field.split(":", 1) for field in fields)
    assert len(named) == len(fields)
    return named


def readings(raw: bytes) -> set[str]:
    """The subject as three independent programs read it."""
    stdlib = message_from_bytes(raw, EmailMessage, policy=policy.default)
    assert not stdlib.defects
    return {str(stdlib["Subject"]), fast_mail_parser.parse_email(raw).subject}


def read_sender(raw: bytes) -> tuple[str, str]:
    """Name and address of the one sender; the standard library of old, which puts a space between
    two encoded words of a name, is asked for the address only."""
    mail = message_from_bytes(raw, EmailMessage, policy=policy.default)
    (read,) = mail["From"].addresses
    sender = fast_mail_parser.parse_email(raw).from_
    assert sender.address == read.addr_spec
    return sender.display_name or "", read.addr_spec


def clean(text: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


NAMES = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "MIME-Version",
    "Content-Type",
]


@given(title=SAID, answer=SAID, error=SAID, run_id=SAID)
@example("é" * 1_000, "", "", "run")
@example("x" * 1_000, "", "", "run")
@example("=?utf-8?q?a=0ab?= " * 60, "", "", "run")
@settings(max_examples=60, deadline=None)
def test_no_text_becomes_a_line_of_the_header_for_any_reader(
    gone: Gone, title: str, answer: str, error: str, run_id: str
) -> None:
    events = [
        make_event(1, "agent_started", {"title": title}, run_id=run_id),
        make_event(2, "tool_completed", {"tool": title, "error": error}, run_id=run_id),
        make_event(3, "agent_completed", {"result": answer}, run_id=run_id),
    ]
    raw = gone.mail(events=events, run_id=run_id)
    assert list(strict_lines(raw)) == NAMES
    assert raw.isascii()
    subjects = readings(raw)
    assert len(subjects) == 1, subjects
    subject = subjects.pop()
    assert clean(subject)
    assert len(subject) <= 180
    rust = fast_mail_parser.parse_email(raw)
    assert [clean(part) for part in rust.text_plain[0].splitlines()].count(False) == 0
    assert len(rust.text_plain) == len(rust.text_html) == 1
    assert rust.attachments == []
    assert sorted(rust.headers) == sorted(NAMES)


@pytest.mark.parametrize(
    "title",
    [
        "Grüße aus Köln, die Prüfung der Änderungen ist fertig",
        "日本語の件名がとても長いので二行以上になるはずです" * 3,
        "👩‍👩‍👧‍👦👨‍💻🏴󠁧󠁢󠁳󠁣󠁴󠁿🇩🇪❤️‍🔥" * 3,
        "سلام، می‌خواهم بروم",
        "שלום\u200f!",
        "नमस्ते दुनिया " * 5,
        "a\u0301e\u0300" * 20,
    ],
)
def test_words_of_any_script_come_back_and_none_is_cut_apart(gone: Gone, title: str) -> None:
    raw = gone.mail(events=[make_event(1, "agent_completed", {"title": title})])
    field = strict_lines(raw)["Subject"]
    assert "=?utf-8?" in field
    (subject,) = readings(raw)
    shown = subject.rpartition(" – ")[0].rstrip("…").rstrip()
    assert shown
    assert " ".join(title.split()).startswith(shown)
    for word in re.findall(r"=\?utf-8\?.\?.*?\?=", field):
        (piece,) = readings(f"Subject: {word}\r\n\r\n".encode())
        assert not unicodedata.combining(piece[0])
        assert piece[0] not in "\u200d\ufe0f"
        assert piece[-1] != "\u200d"


@given(name=TEXTS)
@example('Müller, "Ops" <x@y.example>')
@example("a, b")
@example('back\\slash "quoted"')
@example("é" * 1_000)
@settings(max_examples=60, deadline=None)
def test_a_display_name_of_any_text_leaves_one_sender(gone: Gone, name: str) -> None:
    try:
        raw = gone.mail(sender=f'"{name}" <noreply@delivery.example.org>')
    except ConfigError:
        # Names the setting: a name of several lines, or with an angle bracket, is an accident.
        assert not name.isprintable() or "<" in name or ">" in name
        return
    strict_lines(raw)
    shown, address = read_sender(raw)
    assert address == "noreply@delivery.example.org"
    assert clean(shown)


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        ('"Müller, Söhne & Co" <ops@example.org>', "Müller, Söhne & Co"),
        ('"Müller, \\"Ops\\"" <ops@example.org>', 'Müller, "Ops"'),
        ("Ops, all of them <ops@example.org>", "Ops, all of them"),
        ('Ops "night" shift <ops@example.org>', 'Ops "night" shift'),
        ("J. Doe (ops) <ops@example.org>", "J. Doe (ops)"),
        ("Ops <ops@example.org>", "Ops"),
        ("ops@example.org", ""),
        ("<ops@example.org>", ""),
        (
            "运营团队通知服务的名字很长很长很长很长很长很长很长 <ops@example.org>",
            "运营团队通知服务的名字很长很长很长很长很长很长很长",
        ),
    ],
)
def test_a_senders_name_may_hold_quotes_commas_and_any_script(
    gone: Gone, sender: str, shown: str
) -> None:
    raw = gone.mail(sender=sender)
    strict_lines(raw)
    assert read_sender(raw) == (shown, "ops@example.org")


@pytest.mark.parametrize(
    ("given_address", "sent"),
    [
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@例え.テスト", "ada@xn--r8jz45g.xn--zckzah"),
        ("ada@faß.example", "ada@xn--fa-hia.example"),
        ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example"),
        ("ju\u0308rgen@example.org", "jürgen@example.org"),
        ("用户@例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
        ("a..b@docomo.example", '"a..b"@docomo.example'),
        ("ada+runs=7@example.org", "ada+runs=7@example.org"),
    ],
)
def test_addresses_of_any_script_are_written_as_servers_take_them(
    gone: Gone, given_address: str, sent: str
) -> None:
    raw = gone.mail(contact={"email": given_address})
    assert gone.all[-1][1] == sent
    strict_lines(raw)
    text = raw.decode()
    mail = message_from_string(text, EmailMessage, policy=policy.SMTPUTF8)
    (read,) = mail["To"].addresses
    assert f"{read.username}@{read.domain}" == sent.replace('"', "")
    assert raw.isascii() == sent.isascii()


@pytest.mark.parametrize(
    "address",
    [
        "ada＠evil.example@example.org",
        "ada\u202e@example.org",
        "ada\u200d@example.org",
        "@example.org",
        "=?utf-8?q?ada=40evil.example?=@example.org",
        "a℀b@example.org",
        "ada@-example.org",
        "ada@exa mple.org",
        "ada@" + "a" * 64 + ".org",
        "ü" * 33 + "@example.org",
        "ada@xn--\u2028.org",
        "\ud800@example.org",
        "ada@\ud800.org",
        "ada\x00@example.org",
        '"x"@example.org',
        "ada@example.org>",
        "ada@ex\u00adample..org",
    ],
)
def test_an_address_that_reads_as_another_once_it_is_normalised_gets_no_mail(
    gone: Gone, address: str
) -> None:
    before = len(gone.all)
    with pytest.raises(ChannelRejected, match="cannot be used"):
        gone.mail(contact={"email": address})
    assert len(gone.all) == before
    channel = EmailTransport(URL, FROM, RENDERER, tls_context=TLS)
    assert "cannot be used" in str(channel.unreachable(Contact("ada", email=address)))


@given(address=st.one_of(st.emails(), TEXTS, TEXTS.map(lambda text: f"{text}@example.org")))
@settings(max_examples=100, deadline=None)
def test_any_address_is_one_recipient_or_refused(gone: Gone, address: str) -> None:
    try:
        raw = gone.mail(contact={"email": address})
    except ChannelRejected:
        return
    strict_lines(raw)
    assert not re.search(r"[\s<>]", gone.all[-1][1])


GOOD = (
    b"From: a@example.org\r\nTo: b@example.org\r\nSubject: Hi\r\n"
    b"Content-Type: text/plain\r\n\r\nwords\r\n"
)
MEANT = Expected(("From", "To", "Subject", "Content-Type"), "Hi", "b@example.org", ("text/plain",))


def test_the_check_lets_a_good_mail_pass() -> None:
    assert mail_faults(GOOD, MEANT) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b"Hi", b"Hi\nBcc: x", "bare LF"),
        (b"Hi", b"Hi\rBcc: x", "bare CR"),
        (b"Hi", b"Hi\r\nBcc: x", "the fields are"),
        (b"Hi", b"Hi\r\n \r\n x", "without a field"),
        (b"Hi", b"Hi\r\nno field", "is not a field"),
        (b"Hi", b"Hi\0", "NUL"),
        (b"Hi", b"Hi " + b"x" * 1_000, "octets"),
        (b"Hi", "Hé".encode(), "not allowed in the header"),
        (b"Hi", b"=?utf-8?q?" + b"x" * 70 + b"?=", "over 75"),
        (b"Hi", b"=?utf-8?q?=0a?=", "the parsed subject"),
        (b"Hi", b"=?utf-8?q?H i?=", "malformed encoded word"),
        (b"Hi", b"=?latin1?q?Hi?=", "malformed encoded word"),
        (b"Subject: Hi", b"Subject: " + b"a " * 30 + b"=?utf-8?q?Hi?=", "over 76"),
        (b"b@example.org", b"b@example.org, c@example.org", "the parsed recipient"),
        (b"b@example.org", b"=?utf-8?q?b@example.org=2C?= c@example.org", "the parsed recipient"),
        (b"text/plain", b"text/html", "the parsed parts"),
        (b"\r\n\r\nwords", b"\r\nwords", "no empty line"),
        (b"words\r\n", b"words", "no end"),
        (b"words", "wörds".encode(), "not ASCII"),
    ],
)
def test_the_check_finds_what_a_server_or_a_reader_would_take_otherwise(
    old: bytes, new: bytes, fault: str
) -> None:
    assert fault in "; ".join(mail_faults(GOOD.replace(old, new), MEANT))
