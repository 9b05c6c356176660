"""Redaction of foreign text: linear, never half a secret, nothing that acts on a terminal."""

from __future__ import annotations

import json
import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.telemetry import Redactor, printable, printable_json
from delivery.telemetry.redaction import SHAPES

PIECES = (
    "a",
    "A",
    "-",
    ".",
    "=",
    ":",
    "/",
    "@",
    " ",
    "\n",
    "\t",
    '"',
    "é",
    "0",
    "_",
    "://",
    "://a",
    "://a:",
    "://a:b",
    "://:",
    "a:",
    "a@",
    "eyJ",
    "eyJ-",
    "-eyJ",
    "eyJaaaaa",
    "eyJaaaaa.",
    "eyJaaaaa.b",
    "eyJaaaaa.b ",
    ".eyJaaaaa",
    "bearer",
    "bearer ",
    "basic \n",
    "bearer a",
    "/confirm/",
    "/confirm/a",
    "token",
    "token=",
    "token =",
    "token: ",
    'token"',
    "token='",
    "token  ",
    "secret-",
    "-password",
    "api_key",
    "apikey:",
    "apiapi_",
    "passwd = '",
    "a-token",
    "token=eyJ",
    "secret-eyJ-token:bearer=",
    "eyJ.eyJ-.token=://a:",
    "a@b.",
    "a@b.c@",
    "@b.c",
    "+",
    "+12345678",
)
SMALL, FACTOR = 4_000, 8


def seconds(work, text: str) -> float:
    took = []
    for _ in range(3):
        began = process_time()
        work(text)
        took.append(process_time() - began)
    return min(took)


def filled(piece: str, size: int) -> str:
    return (piece * (size // len(piece) + 1))[:size]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.pattern[:20])
@pytest.mark.parametrize("end", ["", "\x01", "@", ".", "="])
def test_every_pattern_takes_linear_time(shape: re.Pattern[str], end: str) -> None:
    grown = {}
    for piece in PIECES:
        small = seconds(lambda text: shape.sub("", text), filled(piece, SMALL) + end)
        large = seconds(lambda text: shape.sub("", text), filled(piece, SMALL * FACTOR) + end)
        # A quadratic one grows 64-fold, from milliseconds to more than a tenth of a second.
        if large > 3 * FACTOR * max(small, 0.0002):
            grown[piece] = (small, large)
    assert grown == {}


@pytest.mark.parametrize("first", ["a", "eyJ", "://", "token", "="])
def test_two_pieces_together_take_linear_time(first: str) -> None:
    redact = Redactor(["hunter22"])
    for second in PIECES:
        text = filled(first + second, 16_000) + filled(second, 16_000)
        assert seconds(redact, text) < 0.1, second


def test_a_cut_costs_what_is_shown_not_what_there_is() -> None:
    redact = Redactor(["hunter22"])
    for piece in PIECES:
        text = filled(piece, 4_000_000)
        assert seconds(lambda text: redact.cut(text, 4_096), text) < 0.05, piece


@pytest.mark.parametrize(
    "text",
    [
        "x-eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyMiJ9.hunter22",
        "eyJhbGciOiJkaXIifQ..hunter22iv.hunter22cipher.hunter22tag",
        "amqp://guest:hunter22@with@sign@host/vhost",
        "my-api-key-password = 'hunter22'",
        "SECRET:hunter22",
    ],
)
def test_shapes_of_secrets_are_taken_out_wherever_they_stand(text: str) -> None:
    assert "hunter22" not in Redactor()(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 <ada.b+c@example.org>: unknown", "550 <***@example.org>: unknown"),
        ("zoë@mail.example.org", "***@mail.example.org"),
        ("SMS to +4915112345678: no such number", "SMS to +***: no such number"),
        ("celery@worker-1 at 10:00:00+00:00, 3 @ 2, +123", None),
    ],
)
def test_addresses_of_persons_are_taken_out(text: str, shown: str | None) -> None:
    assert Redactor()(text) == (shown or text)


@pytest.mark.parametrize(
    "secret",
    [
        "hunter22 with spaces",
        "long-" + "k" * 3_000,
        "postgresql://user:hunter22hunter22@host/db",
        "postgresql://user:hunter22" + "p" * 3_000 + "@host/db",
        "Bearer hunter22hunter22hunter22",
        "token=hunter22hunter22",
        "eyJhbGciOiJIUzI1NiJ9.hunter22hunter22.c2lnbmF0dXJl",
        "/confirm/hunter22hunter22",
    ],
)
def test_a_cut_leaves_no_part_of_a_secret(secret: str) -> None:
    redact = Redactor(["hunter22 with spaces", "long-" + "k" * 3_000])
    for limit in range(180, 200 + min(len(secret), 60)):
        shown = redact.cut(f"{'x ' * 100}{secret} {'y' * 5_000}", limit)
        assert "hunter" not in shown
        assert "kkk" not in shown
        assert "more characters]" in shown


@given(st.text(), st.integers(0, 40))
def test_a_cut_text_is_a_redacted_beginning(text: str, limit: int) -> None:
    redact = Redactor()
    shown = redact.cut(text, limit)
    assert shown == redact(text) if len(text) <= limit else shown.endswith(" more characters]")


@given(st.text())
def test_nothing_that_acts_on_a_terminal_is_left(text: str) -> None:
    assert all(one == " " or one.isprintable() or one in ALLOWED for one in printable(text + BAD))


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_json_document_decodes_to_the_same_value(value: object) -> None:
    document = json.dumps([value, BAD], ensure_ascii=False, indent=2)
    shown = printable_json(document)
    assert json.loads(shown) == [value, BAD]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", shown)


BAD = "\x1b]0;title\x07\x1b[2J\x9b31m\r\n\u202e\u2066\u2028\ud800"


class _Spaces:
    """Not printable in Python's view, and harmless: spaces, unassigned and private characters."""

    def __contains__(self, one: str) -> bool:
        return not re.match("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", one)


ALLOWED = _Spaces()
