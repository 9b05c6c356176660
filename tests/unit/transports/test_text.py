"""What may be shown: nothing hidden, nothing broken, no character cut apart."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.transports.text import (
    MAX_PROVIDER_ID,
    characters,
    one_line,
    printable,
    provider_id,
    provider_text,
)

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)
# What a reader takes for one character, and what is easily cut.
FOUR_PEOPLE = "👩‍👩‍👧‍👦"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@given(ANYTHING)
def test_what_is_shown_has_no_hidden_or_broken_character_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown == printable(shown)
    assert shown.encode().decode() == shown
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    assert not set(shown) & set(
        "\u200b\u202a\u202b\u202d\u202e\u2060\u2066\u2067\u2068\ufeff\u00ad"
    )


@given(ANYTHING, st.integers(min_value=1, max_value=40))
def test_a_line_is_never_longer_than_asked_for(text: str, length: int) -> None:
    line = one_line(text, length)
    assert len(line) <= length
    assert line == line.strip()
    assert line == one_line(line, length)


@given(ANYTHING)
def test_characters_put_together_are_the_text(text: str) -> None:
    assert "".join(characters(text)) == text


@pytest.mark.parametrize(
    "whole",
    [
        FOUR_PEOPLE,
        SCOTLAND,
        "🇩🇪",
        "👍🏽",
        "❤️\u200d🔥",
        "e\u0301",
        "नि",
        "각",
        "\u1100\u1161\u11a8",
        "1️⃣",
        "葛\U000e0100",
    ],
)
def test_what_a_reader_sees_as_one_is_kept_and_cut_as_one(whole: str) -> None:
    assert printable(whole) == whole
    assert list(characters(whole * 3)) == [whole] * 3
    assert one_line(whole * 9, len(whole) * 2) == whole + "…"


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("a\u200db", "ab"),
        ("a\u202eb", "ab"),
        ("pass\u00adword", "password"),
        ("\U000e0041\U000e0042x", "x"),
        ("a\U000e0100b", "ab"),
        ("a\u200fb", "ab"),
        ("שלום\u200f!", "שלום\u200f!"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\u2028b\x85c\x00d", "a b c d"),
        ("\ud83d!", "\ufffd!"),
        ("\ufffe\U0001ffff", "\ufffd\ufffd"),
        ("e" + "\u0301" * 40, "e" + "\u0301" * 8),
    ],
)
def test_hidden_characters_go_and_those_a_script_needs_stay(given_text: str, shown: str) -> None:
    assert printable(given_text) == shown


@given(st.one_of(ANYTHING, st.binary(max_size=400), st.none(), st.integers()))
def test_what_a_provider_said_can_be_kept_everywhere(said: object) -> None:
    kept = provider_text(said)
    assert kept.isprintable()
    assert kept.encode().decode() == kept
    assert len(kept) <= 200


@given(st.one_of(ANYTHING, st.none(), st.integers(), st.lists(st.text())))
def test_a_providers_name_for_a_message_is_kept_as_it_is_or_not_at_all(name: object) -> None:
    kept = provider_id(name)
    assert kept in (None, name)
    assert kept is None or kept.isprintable()


def test_words_are_replaced_and_names_are_not() -> None:
    assert provider_text("no\x00such \ud800 user") == "no\ufffdsuch \ufffd user"
    assert provider_text(b"5.1.1\x00 \xff no") == "5.1.1\ufffd \ufffd no"
    assert provider_id("SM1") == "SM1"
    for name in ("", "SM\x00", "SM\ud800", "x" * (MAX_PROVIDER_ID + 1), 7, None):
        assert provider_id(name) is None
