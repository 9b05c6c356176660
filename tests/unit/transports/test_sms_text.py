"""Where a text message is cut into parts, and what a part costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.transports.rendering.sms_text import segments, units, with_gsm_equivalents

# Written out once more from the table of the standard, in its order.
ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = "\f^{}\\[~]|€"


def test_the_alphabet_is_the_standards() -> None:
    assert len(set(ALPHABET)) == 127  # and the escape
    assert len(set(EXTENSION)) == 10
    assert segments(ALPHABET).encoding == segments(EXTENSION).encoding == "GSM-7"
    for char in "`ç…–“áíóúÁ\t\u00a0êΑ":
        assert segments(char).encoding == "UCS-2"


@pytest.mark.parametrize(
    ("text", "encoding", "sizes"),
    [
        ("", "GSM-7", [0]),
        ("a" * 160, "GSM-7", [160]),
        ("a" * 161, "GSM-7", [153, 8]),
        ("a" * 306, "GSM-7", [153, 153]),
        ("a" * 307, "GSM-7", [153, 153, 1]),
        ("€" * 80, "GSM-7", [80]),
        ("€" * 81, "GSM-7", [76, 5]),  # the 77th would begin in septet 153 and end in 154
        ("a" * 152 + "€" * 5, "GSM-7", [152, 5]),
        ("é" * 160, "GSM-7", [160]),
        ("ç" + "a" * 69, "UCS-2", [70]),
        ("ç" + "a" * 70, "UCS-2", [67, 4]),
        ("ç" * 134, "UCS-2", [67, 67]),
        ("ç" * 135, "UCS-2", [67, 67, 1]),
        ("😀" * 35, "UCS-2", [35]),
        ("😀" * 36, "UCS-2", [33, 3]),  # the 34th would be cut between its two units
        ("ç" * 66 + "😀" * 3, "UCS-2", [66, 3]),
        ("ç" * 60 + "👨‍👩‍👧‍👦" * 2, "UCS-2", [60, 14]),
    ],
)
def test_a_part_ends_where_the_standard_says(text: str, encoding: str, sizes: list[int]) -> None:
    cut = segments(text)
    assert cut.encoding == encoding
    assert [len(part) for part in cut.parts] == sizes


@given(st.one_of(st.text(max_size=500), st.text(ALPHABET + EXTENSION, max_size=900)))
def test_parts_fit_and_are_the_text(text: str) -> None:
    cut = segments(text)
    assert "".join(cut.parts) == text
    several = len(cut.parts) > 1
    limit = {"GSM-7": (160, 153), "UCS-2": (70, 67)}[cut.encoding][several]
    for part in cut.parts:
        assert units(part, cut.encoding) <= limit
        if cut.encoding == "UCS-2":
            assert len(part.encode("utf-16-be", "surrogatepass")) <= limit * 2
            assert part.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")
    assert not several or units(text, cut.encoding) > {"GSM-7": 160, "UCS-2": 70}[cut.encoding]


def test_words_are_written_in_the_characters_that_cost_less() -> None:
    assert with_gsm_equivalents("Cafe\u0301 – “ok”…\u00a0‘x’") == "Café - \"ok\"... 'x'"
    assert segments(with_gsm_equivalents("Cafe\u0301 – “ok”…")).encoding == "GSM-7"
