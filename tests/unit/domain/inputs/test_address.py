"""Addresses in the form in which they are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.inputs.address import channels_of, comparable


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("Ada@EXAMPLE.Org", "Ada@example.org"),
        ("Ada Lovelace <ada@Example.org>", "ada@example.org"),
        ("<ada@example.org>", "ada@example.org"),
        ('"ada"@example.org', "ada@example.org"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@BÜCHER.example.", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.EXAMPLE", "ada@xn--bcher-kva.example"),
        ("e\u0301@example.org", "\u00e9@example.org"),
        ("a@b@example.org", "a@b@example.org"),
        ("ada", None),
        ("@example.org", None),
        ("ada@", None),
        ("a b@example.org", None),
        ("ada@example.org\n", None),
        ("a\0@example.org", None),
        ("a" * 400 + "@example.org", None),
        ("", None),
    ],
)
def test_a_mail_address_is_compared_by_its_ascii_domain(given: str, form: str | None) -> None:
    assert comparable("email", given) == form


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("+491701234567", "+491701234567"),
        ("+49 (170) 123-45.67", "+491701234567"),
        ("0049 170 1234567", "+491701234567"),
        ("whatsapp:+491701234567", "+491701234567"),
        ("0170 1234567", None),
        ("+4917012345678901", None),
        ("ada@example.org", None),
    ],
)
def test_a_phone_is_compared_as_e164(given: str, form: str | None) -> None:
    assert comparable("sms", given) == form


@given(st.text(max_size=60), st.sampled_from(["email", "sms"]))
def test_the_form_is_its_own_form(text: str, channel: str) -> None:
    form = comparable(channel, text)
    assert form is None or comparable(channel, form) == form


def test_a_text_says_on_which_channels_it_is_an_address() -> None:
    assert channels_of("+491701234567") == (("sms", "+491701234567"),)
    assert channels_of("ada@example.org") == (("email", "ada@example.org"),)
    assert channels_of("none") == ()
