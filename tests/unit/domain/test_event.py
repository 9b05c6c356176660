"""The shape of an event and the rules for its ids."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.domain.event import (
    EventClass,
    check_context_id,
    check_event_id,
    check_event_type,
    format_instant,
    id_flags,
    is_placeholder,
)
from delivery.errors import InvalidContext, InvalidEvent
from delivery.testing import make_event, make_id


def test_the_wire_form_leaves_out_what_is_not_there():
    wire = make_event().as_wire()
    assert list(wire) == ["id", "type", "user_id", "run_id", "seq", "at", "class", "data"]
    assert wire["at"] == "2026-01-01T12:00:00Z"
    assert wire["class"] == "standard"


def test_the_wire_form_has_thread_and_meta_when_they_are_there():
    wire = make_event(thread_id="t1", meta={"m": 1}).as_wire()
    assert (wire["thread_id"], wire["meta"]) == ("t1", {"m": 1})


def test_an_ephemeral_event_says_that_it_has_no_number():
    wire = make_event(event_class=EventClass.EPHEMERAL, seq=None).as_wire()
    assert wire["seq"] is None


def test_only_ephemeral_events_are_not_durable():
    assert [kind for kind in EventClass if not kind.is_durable] == [EventClass.EPHEMERAL]


def test_instants_are_written_in_utc():
    local = datetime(2026, 1, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert format_instant(local) == "2026-01-01T10:00:00Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_written_instant_reads_back_equal(instant):
    assert datetime.fromisoformat(format_instant(instant)) == instant


@pytest.mark.parametrize("spelling", [make_id(10), make_id(10).upper()])
def test_an_id_has_one_form(spelling):
    assert check_event_id(spelling) == make_id(10)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "",
        "x" * 200,
        "7f1b1a3e-6a0c-4f4e-9a51-0d2c8a0f0a01",
        "00000000-0000-0000-0000-000000000000",
        "01900000-0000-7000-0000-000000000001",
        "{01900000-0000-7000-8000-000000000001}",
        "urn:uuid:01900000-0000-7000-8000-000000000001",
        "01900000000070008000000000000001",
        "01900000-00007000-8000-0000-00000001",
    ],
)
def test_anything_but_a_uuid_of_version_7_is_no_id(value):
    with pytest.raises(InvalidEvent) as caught:
        check_event_id(value)
    assert caught.value.field == "id"


@pytest.mark.parametrize("value", ["a", "agent_started", "App.Event:v2-x", "x" * 128])
def test_a_type_is_one_word(value):
    assert check_event_type(value) == value


@pytest.mark.parametrize("value", ["", "1a", "_a", "a b", "a\n", "ä", "x" * 129, None, 1])
def test_what_is_not_one_word_is_no_type(value):
    with pytest.raises(InvalidEvent) as caught:
        check_event_type(value)
    assert caught.value.field == "type"


@pytest.mark.parametrize("value", ["u1", "名前", "a b", "x" * 128, "registry"])
def test_what_addresses_a_user_is_a_user_id(value):
    assert check_context_id("user_id", value) == value


@pytest.mark.parametrize("value", ["", "  ", "x" * 129, "a\x00", "a\x7f", "a\x85", "a\n", None, 1])
def test_what_addresses_no_user_is_refused(value):
    with pytest.raises(InvalidContext) as caught:
        check_context_id("user_id", value)
    assert caught.value.field == "user_id"


def test_no_run_is_named_registry():
    with pytest.raises(InvalidContext):
        check_context_id("run_id", "registry")


@pytest.mark.parametrize(
    "value",
    [
        "undefined",
        "NULL",
        " None ",
        "NaN",
        "{{user}}",
        "${USER}",
        "x${y",
        "\uff4e\uff55ll",
        "null\u200b",
        "\uff5b\uff5buser\uff5d\uff5d",
    ],
)
def test_unfilled_templates_are_seen(value):
    assert is_placeholder(value)


@pytest.mark.parametrize("value", ["u1", "nullable", "undefined-1", "{user}", "$USER"])
def test_real_ids_are_not_taken_for_templates(value):
    assert not is_placeholder(value)


@pytest.mark.parametrize(
    "value",
    [
        "Ame\u0301lie",  # decomposed: NFC has one character for the two
        "\u212bngstr\u00f6m",  # the sign for the unit, not the letter
        "\uff41lice",  # full width
        "\ufb01nn",  # a ligature
        "alice\u200b",  # a zero width space
        "ali\u00adce",  # a soft hyphen
        "\u0430lice",  # a Cyrillic letter among Latin ones
        "\u03bfscar",  # a Greek one
        " alice",
        "alice\u00a0",
    ],
)
def test_an_id_that_reads_like_another_one_is_flagged(value):
    assert id_flags(value, "r1") == ["look_alike:user_id"]
    assert id_flags("u1", value) == ["look_alike:run_id"]


@pytest.mark.parametrize(
    "value",
    [
        "Am\u00e9lie",
        "u1",
        "\u0410\u043b\u0438\u0441\u0430",
        "\u53f0Abc\u304d",
        "a b",
        "Jos\u00e9-9",
        "\U0001f600",
    ],
)
def test_an_id_in_any_one_script_is_not_flagged(value):
    assert id_flags(value, "r1") == []


def test_each_id_that_looks_unfilled_is_flagged_by_name():
    assert id_flags("u1", "null", "{{t}}") == [
        "placeholder:run_id",
        "placeholder:thread_id",
    ]
