"""How a user wants to be reached."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from delivery.domain.contact import MAX_PUSH, Contact, parse_contact
from delivery.errors import InvalidEvent

FULL = {
    "email": "name@example.org",
    "phone": "+491701234567",
    "push": ["ntfy://topic"],
    "locale": "de",
    "time_zone": "Europe/Berlin",
    "quiet_hours": {"from": "22:00", "to": "07:00"},
    "opt_out": ["sms"],
}
BERLIN = ZoneInfo("Europe/Berlin")


def test_what_was_put_can_be_got():
    assert parse_contact("u1", FULL).as_wire() == FULL


def test_an_empty_contact_has_nothing():
    assert parse_contact("u1", {}).as_wire() == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "no-at-sign"),
        ("email", "a@b@c"),
        ("email", "a\nBcc: x@example.org"),
        ("email", f"{'x' * 65}@example.org"),
        ("email", "name@example.org\n"),
        ("email", 5),
        ("phone", "0170 1234567"),
        ("phone", "+0123456789"),
        ("phone", "+491701234567\n"),
        ("push", "ntfy://topic"),
        ("push", [""]),
        ("push", ["ntfy://t"] * (MAX_PUSH + 1)),
        ("locale", "german please"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../etc/passwd"),
        ("time_zone", 1),
        ("quiet_hours", "22-07"),
        ("quiet_hours", {"from": "22:00"}),
        ("quiet_hours", {"from": "24:00", "to": "07:00"}),
        ("quiet_hours", {"from": "22:00\n", "to": "07:00"}),
        ("quiet_hours", {"from": "07:00", "to": "07:00"}),
        ("opt_out", ["pigeon"]),
        ("colour", "red"),
    ],
)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(InvalidEvent) as caught:
        parse_contact("u1", {field: value})
    assert caught.value.field == field


def at(day, hour, minute=0):
    return datetime(2026, 1, day, hour, minute, tzinfo=BERLIN)


NIGHT = Contact("u1", time_zone="Europe/Berlin", quiet_hours=("22:00", "07:00"))


@pytest.mark.parametrize(
    ("now", "until"),
    [
        (at(5, 21, 59), None),
        (at(5, 22), at(6, 7)),
        (at(6, 3), at(6, 7)),
        (at(6, 7), None),
        (at(6, 12), None),
    ],
)
def test_quiet_hours_pass_midnight(now, until):
    assert NIGHT.quiet_until(now) == until


def test_quiet_hours_within_a_day():
    nap = Contact("u1", time_zone="Europe/Berlin", quiet_hours=("13:00", "14:30"))
    assert nap.quiet_until(at(5, 13, 30)) == at(5, 14, 30)
    assert nap.quiet_until(at(5, 14, 30)) is None


def test_quiet_hours_are_the_users_and_not_the_servers():
    now = datetime(2026, 1, 5, 23, 0, tzinfo=ZoneInfo("Asia/Tokyo"))  # 15:00 in Berlin
    assert NIGHT.quiet_until(now) is None


def test_without_quiet_hours_it_is_never_quiet():
    assert Contact("u1").quiet_until(at(5, 3)) is None


def test_quiet_hours_in_a_zone_that_is_not_known_here_any_more_count_in_utc():
    """Another machine's zone database had it when it was stored; the chain must go on."""
    lost = Contact("u1", time_zone="Mars/Olympus", quiet_hours=("13:00", "15:00"))
    assert lost.zone is UTC
    inside = datetime(2026, 1, 5, 13, 30, tzinfo=UTC)
    assert lost.quiet_until(inside) == datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
