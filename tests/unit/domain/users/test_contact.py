"""How a user wants to be reached."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.domain.users.contact import MAX_PUSH, Contact, parse_contact
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
        ("email", "a@b c.org"),
        ("email", "a@b\u2028.org"),
        ("email", "a\x85@example.org"),
        ("email", "a\ud800@example.org"),
        ("email", "a@\ud800.org"),
        ("email", "a\nBcc: x@example.org"),
        ("email", f"{'x' * 65}@example.org"),
        ("email", "name@example.org\n"),
        ("email", 5),
        ("phone", "0170 1234567"),
        ("phone", "+0123456789"),
        ("phone", "+491701234567\n"),
        ("phone", "+4917012345\u0666\u0667"),
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
        ("quiet_hours", {"from": "0\u0663:00", "to": "07:00"}),
        ("quiet_hours", {"from": "22:0\uff10", "to": "07:00"}),
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


@pytest.mark.parametrize(
    "stored",
    [
        ("0\u0663:00", "07:00"),
        ("22:00", "0\u0667:00"),
        ("22:00", "25:00"),
        ("", ""),
        ("22:00", "07:00+05:00"),
        ("22:00", "22:00"),
    ],
)
def test_quiet_hours_that_were_stored_and_cannot_be_read_are_none(stored):
    """Written before the check was strict, or by hand: the user's chain must go on."""
    assert Contact("u1", quiet_hours=stored).quiet_until(at(5, 3)) is None


def quiet(begins, ends, zone="America/New_York"):
    return Contact("u1", time_zone=zone, quiet_hours=(begins, ends))


def utc(*fields):
    return datetime(*fields, tzinfo=UTC)


@pytest.mark.parametrize(
    ("contact", "now", "until"),
    [
        # 2026-11-01: 01:00 to 02:00 comes twice, first as EDT (UTC-4), then as EST (UTC-5).
        (quiet("22:00", "01:30"), utc(2026, 11, 1, 5, 15), utc(2026, 11, 1, 6, 30)),
        (quiet("22:00", "01:30"), utc(2026, 11, 1, 6, 15), utc(2026, 11, 1, 6, 30)),
        (quiet("22:00", "01:30"), utc(2026, 11, 1, 6, 30), None),
        (quiet("01:30", "07:00"), utc(2026, 11, 1, 5, 29), None),
        (quiet("01:30", "07:00"), utc(2026, 11, 1, 5, 30), utc(2026, 11, 1, 12, 0)),
        (quiet("01:30", "07:00"), utc(2026, 11, 1, 6, 15), utc(2026, 11, 1, 12, 0)),
        (quiet("01:10", "01:20"), utc(2026, 11, 1, 6, 15), utc(2026, 11, 1, 6, 20)),
        # 2026-03-08: 02:00 EST is followed by 03:00 EDT.
        (quiet("22:00", "02:30"), utc(2026, 3, 8, 6, 59), utc(2026, 3, 8, 7, 30)),
        (quiet("02:30", "07:00"), utc(2026, 3, 8, 6, 59), None),
        (quiet("02:30", "07:00"), utc(2026, 3, 8, 7, 0), utc(2026, 3, 8, 11, 0)),
        # Lebanon's clocks go from 24:00 back to 23:00: the hour belongs to the day before.
        (
            quiet("23:15", "23:45", "Asia/Beirut"),
            utc(2026, 10, 24, 21, 30),
            utc(2026, 10, 24, 21, 45),
        ),
    ],
)
def test_quiet_hours_when_the_clocks_change(contact, now, until):
    assert contact.quiet_until(now) == until


def transitions(zone, begins, ends):
    """The instants at which a zone's offset changes, to the second. No two are closer than the
    five weeks for which Morocco leaves its summer time."""
    found, step = [], timedelta(days=14)
    low, offset = begins, begins.astimezone(zone).utcoffset()
    while low < ends:
        high = low + step
        after = high.astimezone(zone).utcoffset()
        if after != offset:
            found.append(_change(zone, low, high, offset))
        low, offset = high, after
    return found


def _change(zone, low, high, offset):
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def changes():
    """(zone, instant) of every change of every zone in five years; zones that change alike once."""
    found = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for instant in transitions(zone, utc(2024, 1, 1), utc(2029, 1, 1)):
            before = instant - timedelta(seconds=1)
            offsets = (before.astimezone(zone).utcoffset(), instant.astimezone(zone).utcoffset())
            found.setdefault((instant, *offsets), (name, instant))
    return list(found.values())


CHANGES = changes()
CLOCK = st.integers(0, 1439).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")


def test_the_zones_have_changes_to_walk():
    assert len(CHANGES) > 200


def check_around(name, change, begins, ends, minutes):
    zone, contact = ZoneInfo(name), quiet(begins, ends, name)
    first, last = time.fromisoformat(begins), time.fromisoformat(ends)
    for minute in minutes:
        now = change + timedelta(minutes=minute)
        until = contact.quiet_until(now)
        wall = now.astimezone(zone).time()
        if first <= wall < last if first < last else not last <= wall < first:
            assert until is not None, (name, now, contact.quiet_hours)
        if until is None:
            continue
        assert until > now
        shown = until.astimezone(zone)
        assert until - now <= timedelta(days=1, hours=1)
        # A change at 23:00 skips the end into the next day.
        days = (shown.date(), shown.date() - timedelta(days=1))
        ends_at = [datetime.combine(day, last, zone) for day in days]
        is_skipped = any(one.astimezone(UTC).astimezone(zone).time() != last for one in ends_at)
        assert shown.time() == last or is_skipped, (name, now, contact.quiet_hours)


def test_an_end_that_a_change_skips_into_the_next_day_moves_there():
    contact = quiet("00:00", "23:00", "America/Godthab")
    before = utc(2024, 3, 31, 0, 59)  # 22:59; a minute later it is midnight
    assert contact.quiet_until(before) == utc(2024, 3, 31, 1)


def test_every_change_of_every_zone_keeps_the_end_of_quiet_hours_ahead():
    for name, change in CHANGES:
        before = (change - timedelta(seconds=1)).astimezone(ZoneInfo(name))
        after = change.astimezone(ZoneInfo(name))
        near = (before - timedelta(minutes=29)).strftime("%H:%M")
        far = (after + timedelta(minutes=29)).strftime("%H:%M")
        for begins, ends in (("22:00", near), ("22:00", far), (near, "07:00"), (far, near)):
            if begins != ends:
                check_around(name, change, begins, ends, (-61, -31, -30, -29, -1, 0, 1, 29, 31, 61))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(CHANGES), CLOCK, CLOCK, st.lists(st.integers(-1500, 1500), max_size=30))
def test_quiet_hours_of_any_length_around_any_change(change, begins, ends, minutes):
    if begins != ends:
        check_around(*change, begins, ends, minutes)


@pytest.mark.parametrize("email", ["ada@bücher.example", "用户@例え.テスト", "ada@हिन्दी.भारत"])
def test_an_address_may_be_of_any_script(email: str) -> None:
    assert parse_contact("ada", {"email": email}).email == email
