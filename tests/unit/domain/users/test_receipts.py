"""What status codes say about an address, and how long it is suppressed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from delivery.domain.users.receipts import (
    SOFT_LONGEST,
    Suppress,
    enhanced_code,
    soft_until,
    suppress_bounce,
)

NOW = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("smtp; 550 5.1.1 user unknown", "5.1.1"),
        ("550-5.1.10 no mail", "5.1.10"),
        ("#5.1.1 smtp;550", "5.1.1"),
        ("host 10.5.1.1 said no", None),
        ("version 15.1.1", None),
        ("5.1", None),
        ("", None),
    ],
)
def test_an_enhanced_code_is_found_in_words(text: str, code: str | None) -> None:
    assert enhanced_code(text) == code


@pytest.mark.parametrize(
    ("code", "is_permanent", "expected"),
    [
        ("5.1.1", True, Suppress.HARD_BOUNCE),
        ("5.1.1", False, Suppress.HARD_BOUNCE),
        ("5.1.10", True, Suppress.HARD_BOUNCE),
        ("4.1.1", True, Suppress.SOFT_BOUNCE),
        ("5.2.2", True, Suppress.SOFT_BOUNCE),
        ("5.7.1", True, None),
        ("5.6.0", True, None),
        ("4.4.7", False, None),
        ("5.1.8", True, None),  # about our own address
        ("5.0.0", True, Suppress.HARD_BOUNCE),
        ("5.0.0", False, Suppress.SOFT_BOUNCE),
        (None, True, Suppress.HARD_BOUNCE),
        (None, False, Suppress.SOFT_BOUNCE),
    ],
)
def test_a_bounce_suppresses_by_its_code_first(
    code: str | None, is_permanent: bool, expected: Suppress | None
) -> None:
    assert suppress_bounce(code, is_permanent=is_permanent) is expected


def test_soft_suppressions_double_up_to_a_limit() -> None:
    lengths = [soft_until(NOW, times) - NOW for times in range(1, 40)]
    assert lengths[:3] == [timedelta(hours=6), timedelta(hours=12), timedelta(hours=24)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == SOFT_LONGEST
