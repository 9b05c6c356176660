"""Bounces and complaints that come as mails. The samples are written from the RFCs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.users.receipts import ReceiptStatus, Suppress
from delivery.errors import InvalidReceipt
from delivery.transports.receipts.bounce_mail import MAX_MAIL, receipts_of

OURS = "<0192f000-0000-7000-8000-000000000001@example.org>"
HEAD = """\
From: MAILER-DAEMON@mx.example.net
To: delivery@example.org
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type={kind}; boundary="b"
{more}
--b
Content-Type: text/plain

I'm sorry to have to inform you.

"""
STATUS = """\
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
Original-Envelope-Id: env-1

Final-Recipient: rfc822; ada@example.org
Action: {action}
Status: {status}
Diagnostic-Code: smtp; {words}

"""
ORIGINAL = f"""\
--b
Content-Type: message/rfc822

Message-ID: {OURS}
Subject: your agent is done

text
--b--
"""
HEADERS_ONLY = ORIGINAL.replace("message/rfc822", "text/rfc822-headers")
FEEDBACK = """\
--b
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: SomeGenerator/1.0
Version: 1
Original-Rcpt-To: <ada@example.org>
Arrival-Date: Sat, 31 Jan 2026 12:00:00 +0000

"""


def bounce(
    action: str = "failed",
    status: str = "5.1.1",
    words: str = "550 5.1.1 no such user",
    original: str = ORIGINAL,
    more: str = "",
) -> bytes:
    head = HEAD.format(kind="delivery-status", more=more)
    text = head + STATUS.format(action=action, status=status, words=words) + original
    return text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("original", [ORIGINAL, HEADERS_ONLY])
def test_a_bounce_names_message_address_and_code(original: str) -> None:
    [receipt] = receipts_of(bounce(original=original))
    assert receipt.status is ReceiptStatus.BOUNCED
    assert receipt.references[0] == OURS
    assert (receipt.address, receipt.code) == ("ada@example.org", "5.1.1")
    assert receipt.text == "550 5.1.1 no such user"
    assert receipt.suppress is Suppress.HARD_BOUNCE
    assert not receipt.is_authentic


@pytest.mark.parametrize(
    ("action", "status", "kind", "suppress"),
    [
        ("Failed", "5.2.2", ReceiptStatus.BOUNCED, Suppress.SOFT_BOUNCE),
        ("failed", "5.7.1", ReceiptStatus.BOUNCED, None),
        ("failed", "5.0.0", ReceiptStatus.BOUNCED, Suppress.SOFT_BOUNCE),
        ("delayed", "4.4.1", ReceiptStatus.DEFERRED, None),
        ("relayed", "2.0.0", ReceiptStatus.DELIVERED, None),
    ],
)
def test_the_action_and_the_status_decide(
    action: str, status: str, kind: ReceiptStatus, suppress: Suppress | None
) -> None:
    [receipt] = receipts_of(bounce(action, status, "x"))
    assert (receipt.status, receipt.suppress) == (kind, suppress)


def test_a_bounce_without_the_original_is_found_by_what_it_answers() -> None:
    mail = bounce(original="--b--\n", more=f"References: <other@x>\n {OURS}\n")
    [receipt] = receipts_of(mail)
    assert receipt.references == ("env-1", "<other@x>", OURS)


@pytest.mark.parametrize(("kind", "count"), [("abuse", 1), ("not-spam", 0)])
def test_a_feedback_report_is_a_complaint(kind: str, count: int) -> None:
    head = HEAD.format(kind="feedback-report", more="")
    found = receipts_of((head + FEEDBACK.format(kind=kind) + ORIGINAL).encode())
    assert [(one.status, one.address, one.references[0]) for one in found] == [
        (ReceiptStatus.COMPLAINED, "ada@example.org", OURS)
    ] * count


@pytest.mark.parametrize(
    "mail",
    [
        b"Subject: out of office\r\n\r\nI am away.\r\n",
        b"no header at all",
        bounce(action="dancing"),
        bounce().replace(b"message/delivery-status", b"message/disposition-notification"),
        bounce().replace(b"multipart/report", b"multipart/mixed"),
    ],
)
def test_a_mail_that_is_no_report_has_no_receipt(mail: bytes) -> None:
    assert receipts_of(mail) == []


@pytest.mark.parametrize(
    "mail",
    [
        b"",
        b" \n",
        b"x" * (MAX_MAIL + 1),
        b"Content-Type: message/rfc822\r\n\r\n" * 5_000,
        b"".join(
            b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n)
            for n in range(5_000)
        ),
    ],
)
def test_a_mail_beyond_reason_is_refused(mail: bytes) -> None:
    with pytest.raises(InvalidReceipt):
        receipts_of(mail)


@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 700))
def test_damage_anywhere_raises_nothing_else(junk: bytes, start: int, end: int) -> None:
    mail = bounce()
    with contextlib.suppress(InvalidReceipt):
        receipts_of(mail[:start] + junk + mail[max(start, end) :])
